//! Defines the metrics' names, labels and help. Each help says what to do with the number.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result,
};

/// Buckets for requests: from a local store's milliseconds to a stalled one's minute.
const REQUEST_SECONDS: &[f64] = &[0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// Buckets for parts: at the default of 16 MiB, 0.1 s is 1.3 Gbit/s of one connection and 60 s is 2 Mbit/s.
const PART_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Buckets for jobs and snapshots: seconds to half a day.
const RUN_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0];

pub(super) struct Definitions {
    pub(super) build_info: IntGaugeVec,
    pub(super) start_time: Gauge,
    pub(super) job_runs: IntCounterVec,
    pub(super) job_runs_skipped: IntCounterVec,
    pub(super) job_last_success: GaugeVec,
    pub(super) job_last_outcome: IntGaugeVec,
    pub(super) job_duration: HistogramVec,
    pub(super) job_next_run: GaugeVec,
    pub(super) job_interval: GaugeVec,
    pub(super) jobs_running: IntGauge,
    pub(super) source_bytes: IntCounterVec,
    pub(super) source_files: IntCounterVec,
    pub(super) source_warnings: IntCounterVec,
    pub(super) stored_bytes: IntCounterVec,
    pub(super) deduplicated_bytes: IntCounterVec,
    pub(super) uploaded_bytes: IntCounterVec,
    pub(super) downloaded_bytes: IntCounterVec,
    pub(super) upload_parts_in_flight: IntGaugeVec,
    pub(super) upload_part_duration: HistogramVec,
    pub(super) uploads: IntCounterVec,
    pub(super) uploads_aborted: IntCounterVec,
    pub(super) interrupted_uploads: IntGaugeVec,
    pub(super) swept_uploads: IntCounterVec,
    pub(super) requests: IntCounterVec,
    pub(super) request_duration: HistogramVec,
    pub(super) request_retries: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) memory_budget: IntGauge,
    pub(super) memory_in_use: IntGauge,
    pub(super) memory_wait: Counter,
    pub(super) credentials_expiry: GaugeVec,
    pub(super) credentials_refresh: IntCounterVec,
    pub(super) certificate_expiry: GaugeVec,
    pub(super) location_up: IntGaugeVec,
    pub(super) location_last_check: GaugeVec,
    pub(super) ebs_snapshots: IntCounterVec,
    pub(super) ebs_snapshots_pending: IntGaugeVec,
    pub(super) ebs_snapshot_duration: HistogramVec,
    pub(super) kubernetes_objects: IntGaugeVec,
    pub(super) kubernetes_objects_skipped: IntGaugeVec,
    pub(super) kubernetes_groups_unavailable: IntGaugeVec,
    pub(super) kubernetes_list_pages: IntCounterVec,
    pub(super) kubernetes_lists_expired: IntCounterVec,
    pub(super) claims: IntGaugeVec,
    pub(super) claims_unsaved: IntGaugeVec,
    pub(super) claims_lost: IntGaugeVec,
    pub(super) hooks_owed: IntGaugeVec,
    pub(super) backups: IntGaugeVec,
    pub(super) backups_deleted: IntCounterVec,
    pub(super) lock_extensions: IntCounterVec,
    pub(super) lock_oldest_expiry: GaugeVec,
    pub(super) lock_period: GaugeVec,
    pub(super) config_last_reload_successful: IntGauge,
    pub(super) state_write_failures: IntCounter,
    /// All families above with labels.
    families: Vec<Box<dyn Forget>>,
}

impl Definitions {
    #[rustfmt::skip]
    pub(super) fn register(registry: &Registry) -> Result<Self> {
        let mut r = Registrar { registry, families: Vec::new() };
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            build_info: r.gauges("build_info", "The version that runs; always 1. More than one version for long is a rollout that stopped.", &["version", "commit"])?,
            start_time: r.plain(Gauge::with_opts(opts("start_time_seconds", "When the process started, Unix time. One that keeps changing is a crash loop: see the log before the restart."))?)?,
            job_runs: r.counters("job_runs_total", "Runs that ended, by outcome and by the class of the failure. Look up the class in docs/runbooks.md.", &["job", "outcome", "class"])?,
            job_runs_skipped: r.counters("job_runs_skipped_total", "Due runs that were skipped. `overlap`: the last run had not ended, the job needs a longer interval. `missed`: the machine was off, and catch_up is never.", &["job", "reason"])?,
            job_last_success: r.floats("job_last_success_timestamp_seconds", "When the last good backup was committed, Unix time; kept over restarts. Alert on its age against the schedule.", &["job"])?,
            job_last_outcome: r.gauges("job_last_outcome", "How the last run ended: 0 success, 1 partial, 2 failure, 3 cancelled. The log and `penstock status` say why.", &["job"])?,
            job_duration: r.histograms("job_duration_seconds", "How long runs took. One that nears the job's timeout or its schedule's interval needs more concurrency or a longer one.", &["job"], RUN_SECONDS)?,
            job_next_run: r.floats("job_next_run_timestamp_seconds", "When the job starts next, Unix time. In the past for long: the scheduler waits for concurrent_jobs, or hangs.", &["job"])?,
            job_interval: r.floats("job_interval_seconds", "The longest time between two runs of the job's schedule. Compare the age of the last success with it.", &["job"])?,
            jobs_running: r.plain(IntGauge::with_opts(opts("jobs_running", "Jobs that run now. At limits.concurrent_jobs for long, others wait: raise it, or spread the schedules."))?)?,
            source_bytes: r.counters("source_bytes_total", "Plain bytes read from sources.", &["job"])?,
            source_files: r.counters("source_files_total", "Files, folders and links found in trees.", &["job"])?,
            source_warnings: r.counters("source_warnings_total", "Files that could not be read or changed while they were read. `penstock show` lists their paths.", &["job"])?,
            stored_bytes: r.counters("stored_bytes_total", "Bytes added to the store, compressed. The bill grows by them.", &["job"])?,
            deduplicated_bytes: r.counters("deduplicated_bytes_total", "Plain bytes that the previous backup already had. Near 0 for an incremental job: its parent is missing, see the log.", &["job"])?,
            uploaded_bytes: r.counters("uploaded_bytes_total", "Bytes of objects that the store has accepted.", &["location"])?,
            downloaded_bytes: r.counters("downloaded_bytes_total", "Bytes of objects received from the store.", &["location"])?,
            upload_parts_in_flight: r.gauges("upload_parts_in_flight", "Parts in flight now. Far below upload.concurrency: the store asked to slow down, or memory is short.", &["location"])?,
            upload_part_duration: r.histograms("upload_part_duration_seconds", "How long the upload of a part took, retries included.", &["location"], PART_SECONDS)?,
            uploads: r.counters("uploads_total", "Multipart uploads that ended, by outcome.", &["location", "outcome"])?,
            uploads_aborted: r.counters("uploads_aborted_total", "Uploads that were aborted, why, and whether the store says they are gone. `failure` still costs storage: `penstock sweep`.", &["location", "reason", "outcome"])?,
            interrupted_uploads: r.gauges("interrupted_uploads", "Uploads in the journal that no job works on and that still exist. Not 0 for hours: see the sweeper's log for the class.", &["location"])?,
            swept_uploads: r.counters("swept_uploads_total", "Interrupted uploads that the sweeper processed, by outcome.", &["location", "outcome"])?,
            requests: r.counters("requests_total", "Requests to AWS, retries of the SDK included in one. The bill's number.", &["location", "service", "operation", "outcome"])?,
            request_duration: r.histograms("request_duration_seconds", "How long requests took, the SDK's attempts included.", &["service", "operation"], REQUEST_SECONDS)?,
            request_retries: r.counters("request_retries_total", "Attempts that failed and were repeated, by class. `throttled`: lower concurrency, or spread the schedules.", &["location", "service", "class"])?,
            errors: r.counters("errors_total", "Requests that failed for good, by class. Look up the class in docs/runbooks.md.", &["location", "service", "class"])?,
            memory_budget: r.plain(IntGauge::with_opts(opts("memory_budget_bytes", "limits.memory."))?)?,
            memory_in_use: r.plain(IntGauge::with_opts(opts("memory_in_use_bytes", "Bytes of the budget that streams use. Never above the budget."))?)?,
            memory_wait: r.plain(Counter::with_opts(opts("memory_wait_seconds_total", "Seconds that streams waited for memory before they started. Growing steadily: raise limits.memory."))?)?,
            credentials_expiry: r.floats("credentials_expiry_timestamp_seconds", "When the credentials in use expire, Unix time; absent where they do not. Less than some minutes ahead: STS does not answer, see the log.", &["location"])?,
            credentials_refresh: r.counters("credentials_refresh_total", "Refreshes of credentials, by outcome.", &["location", "outcome"])?,
            certificate_expiry: r.floats("certificate_expiry_timestamp_seconds", "When the first certificate of the CA bundle expires, Unix time; absent without a bundle. Put the new one into the file before.", &["location"])?,
            location_up: r.gauges("location_up", "Whether the last check of the location succeeded. 0: run `penstock validate`.", &["location"])?,
            location_last_check: r.floats("location_last_check_timestamp_seconds", "When the location was last checked, Unix time.", &["location"])?,
            ebs_snapshots: r.counters("ebs_snapshots_total", "EBS snapshots that ended, by outcome and class. Look up the class in docs/runbooks.md.", &["job", "outcome", "class"])?,
            ebs_snapshots_pending: r.gauges("ebs_snapshots_pending", "Snapshots that were started and are not completed. Not 0 for a day: see the snapshot's state in EC2.", &["job"])?,
            ebs_snapshot_duration: r.histograms("ebs_snapshot_duration_seconds", "How long snapshots took until they were completed.", &["job"], RUN_SECONDS)?,
            kubernetes_objects: r.gauges("kubernetes_objects", "Objects of each kind in the last backup. If it falls to 0, or the series ends, they were deleted, or their kind is no longer served or allowed: see `penstock show`.", &["job", "resource"])?,
            kubernetes_objects_skipped: r.gauges("kubernetes_objects_skipped", "Objects that the last backup left out, by reason. `too-large` and `unusable-name` are losses; no restore needs the others.", &["job", "reason"])?,
            kubernetes_groups_unavailable: r.gauges("kubernetes_groups_unavailable", "Versions of API groups whose server did not answer at the last backup, so that their objects may be missing. `kubectl get apiservices` shows them.", &["job"])?,
            kubernetes_list_pages: r.counters("kubernetes_list_pages_total", "Pages requested from the API server. If it grows much faster than the number of objects, pages are requested repeatedly: see the log.", &["job"])?,
            kubernetes_lists_expired: r.counters("kubernetes_lists_expired_total", "Lists that continued in a later state of the cluster, because a page took longer than the server keeps a state (410). If it grows steadily, the store or the server is slow.", &["job"])?,
            claims: r.gauges("claims", "Volumes of this node's pods in the job's last round. `failed`: could not be saved. `missing`: were saved before, and no running pod has them mounted now. `penstock show JOB@latest` names them.", &["job", "state"])?,
            claims_unsaved: r.gauges("claims_unsaved", "Volumes of this node's pods that the last round did not try, by reason. docs/pod-volumes.md says which reasons are losses.", &["job", "reason"])?,
            claims_lost: r.gauges("claims_lost", "Volumes that the last round should have saved and did not, for whatever reason, failed and missing ones too. Not 0: `penstock show JOB@latest`.", &["job"])?,
            hooks_owed: r.gauges("hooks_owed", "Commands that must still be run in pods after a backup, and failed or were left by a crash. Not 0: a pod may be frozen; see the log.", &["job"])?,
            backups: r.gauges("backups", "Committed backups of this node in the store. Growing without end: the job has no retention, or prune fails.", &["job"])?,
            backups_deleted: r.counters("backups_deleted_total", "Backups that retention or `delete` removed, by outcome. `failure`: the role lacks s3:DeleteObject, or see the log.", &["job", "outcome"])?,
            lock_extensions: r.counters("object_lock_extensions_total", "Locks of objects that were made longer, by outcome. `failure`: the objects stay locked for half of object_lock.period at most; see the log for the class.", &["location", "outcome"])?,
            lock_oldest_expiry: r.floats("object_lock_oldest_expiry_timestamp_seconds", "When the first lock ends of all objects that this node's backups need, Unix time; absent without object_lock. Less than half of the period ahead: locks are not extended.", &["location"])?,
            lock_period: r.floats("object_lock_period_seconds", "object_lock.period; absent without object_lock. Compare the time until the first lock ends with it.", &["location"])?,
            config_last_reload_successful: r.plain(IntGauge::with_opts(opts("config_last_reload_successful", "0: the file on disk was refused and the old configuration stays in use. `penstock config check` says why."))?)?,
            state_write_failures: r.plain(IntCounter::with_opts(opts("state_write_failures_total", "Records that could not be written to state_dir. Its disk is full or read-only: a restart would forget when jobs last succeeded."))?)?,
            families: r.families,
        })
    }

    #[cfg(test)]
    pub(super) fn with_labels(&self) -> usize {
        self.families.len()
    }

    /// Drops every series whose `label` is `value`.
    pub(super) fn forget(&self, label: &str, value: &str) {
        for family in &self.families {
            family.forget(label, value);
        }
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("penstock_{name}"), help)
}

struct Registrar<'a> {
    registry: &'a Registry,
    families: Vec<Box<dyn Forget>>,
}

impl Registrar<'_> {
    fn plain<C: Collector + Clone + 'static>(&mut self, metric: C) -> Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn family<B: MetricVecBuilder + 'static>(&mut self, family: MetricVec<B>) -> Result<MetricVec<B>> {
        self.families.push(Box::new(family.clone()));
        self.plain(family)
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.family(IntCounterVec::new(opts(name, help), labels)?)
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.family(IntGaugeVec::new(opts(name, help), labels)?)
    }

    fn floats(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        self.family(GaugeVec::new(opts(name, help), labels)?)
    }

    fn histograms(&mut self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec> {
        let opts = HistogramOpts::new(format!("penstock_{name}"), help).buckets(buckets.to_vec());
        self.family(HistogramVec::new(opts, labels)?)
    }
}

/// Removes series by one of their labels, for every kind of family.
trait Forget: Send + Sync {
    fn forget(&self, label: &str, value: &str);
}

/// Drops every series of `family` whose `label` is `value`.
pub(super) fn forget(family: &IntGaugeVec, label: &str, value: &str) {
    Forget::forget(family, label, value);
}

impl<B: MetricVecBuilder> Forget for MetricVec<B> {
    fn forget(&self, label: &str, value: &str) {
        for family in self.collect() {
            for metric in family.get_metric() {
                let labels: HashMap<&str, &str> =
                    metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
                if labels.get(label) == Some(&value) {
                    // Fails if another thread has removed it already.
                    let _ = self.remove(&labels);
                }
            }
        }
    }
}
