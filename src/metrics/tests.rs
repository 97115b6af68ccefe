use std::collections::BTreeSet;

use super::*;

fn names(metrics: &Metrics) -> Vec<String> {
    metrics.gather().iter().map(|family| family.name().to_owned()).collect()
}

#[test]
fn a_forgotten_job_or_location_leaves_no_series() {
    let metrics = Metrics::new();
    let (before, job) = (names(&metrics), metrics.job("etcd"));
    job.ran(Outcome::Failure, Some(Class::KmsDenied), Duration::from_secs(3));
    job.last_success(1.0);
    let location = metrics.location("primary");
    location.request("s3", "UploadPart", Outcome::Success, Duration::from_millis(5));
    location.uploaded(5);
    assert!(names(&metrics).contains(&"penstock_job_runs_total".to_owned()));
    metrics.forget_job("etcd");
    metrics.forget_location("primary");
    // Request durations have no location: they stay.
    let left: Vec<_> = names(&metrics).into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(left, ["penstock_request_duration_seconds"]);
}

/// Dashboards and alerts outside the project use these names and labels.
const PUBLISHED: &[&str] = &[
    "build_info{commit,version}",
    "start_time_seconds{}",
    "job_runs_total{class,job,outcome}",
    "job_runs_skipped_total{job,reason}",
    "job_interval_seconds{job}",
    "job_last_success_timestamp_seconds{job}",
    "job_last_outcome{job}",
    "job_duration_seconds{job}",
    "job_next_run_timestamp_seconds{job}",
    "jobs_running{}",
    "source_bytes_total{job}",
    "source_files_total{job}",
    "source_warnings_total{job}",
    "stored_bytes_total{job}",
    "deduplicated_bytes_total{job}",
    "uploaded_bytes_total{location}",
    "downloaded_bytes_total{location}",
    "upload_parts_in_flight{location}",
    "upload_part_duration_seconds{location}",
    "uploads_total{location,outcome}",
    "uploads_aborted_total{location,outcome,reason}",
    "interrupted_uploads{location}",
    "swept_uploads_total{location,outcome}",
    "requests_total{location,operation,outcome,service}",
    "request_duration_seconds{operation,service}",
    "request_retries_total{class,location,service}",
    "errors_total{class,location,service}",
    "memory_budget_bytes{}",
    "memory_in_use_bytes{}",
    "memory_wait_seconds_total{}",
    "credentials_expiry_timestamp_seconds{location}",
    "credentials_refresh_total{location,outcome}",
    "certificate_expiry_timestamp_seconds{location}",
    "location_up{location}",
    "location_last_check_timestamp_seconds{location}",
    "ebs_snapshots_total{class,job,outcome}",
    "ebs_snapshots_pending{job}",
    "ebs_snapshot_duration_seconds{job}",
    "kubernetes_objects{job,resource}",
    "kubernetes_objects_skipped{job,reason}",
    "kubernetes_groups_unavailable{job}",
    "kubernetes_list_pages_total{job}",
    "kubernetes_lists_expired_total{job}",
    "claims{job,state}",
    "claims_unsaved{job,reason}",
    "claims_lost{job}",
    "hooks_owed{job}",
    "backups{job}",
    "backups_deleted_total{job,outcome}",
    "object_lock_extensions_total{location,outcome}",
    "object_lock_oldest_expiry_timestamp_seconds{location}",
    "object_lock_period_seconds{location}",
    "config_last_reload_successful{}",
    "state_write_failures_total{}",
];

fn cluster(kinds: &[(&str, u64)]) -> Record {
    let mut record = Record::default();
    for (kind, objects) in kinds {
        let skipped = [("mirror-pod".to_owned(), 1)].into();
        let resource = ResourceRecord { objects: *objects, pages: 2, skipped, ..ResourceRecord::default() };
        record.resources.insert((*kind).to_owned(), resource);
    }
    record
}

#[test]
fn a_clusters_objects_are_those_of_the_last_backup() {
    let metrics = Metrics::new();
    let job = metrics.job("cluster");
    let (one, two) = (cluster(&[("pods", 3), ("secrets", 1)]), cluster(&[("pods", 4)]));
    job.objects([&one, &two].into_iter());
    let objects = |kind: &str| metrics.all().kubernetes_objects.with_label_values(&["cluster", kind]).get();
    assert_eq!((objects("pods"), objects("secrets")), (7, 1));
    assert_eq!(metrics.all().kubernetes_objects_skipped.with_label_values(&["cluster", "mirror-pod"]).get(), 3);
    let unavailable = || metrics.all().kubernetes_groups_unavailable.with_label_values(&["cluster"]).get();
    assert_eq!(unavailable(), 0);
    let mut two = two;
    two.groups.stale.insert("half.example.com/v1".into());
    two.groups.missing.insert("dead.example.com/v1".into());
    job.objects([&two].into_iter());
    assert_eq!(unavailable(), 2);
    let left = metrics.gather().into_iter().find(|family| family.name() == "penstock_kubernetes_objects").unwrap();
    assert_eq!((objects("pods"), left.get_metric().len()), (4, 1));
}

fn round(reasons: &[(round::Reason, u64)]) -> round::Record {
    let reasons = reasons.iter().copied().collect();
    let json = serde_json::json!({
        "version": 1, "saved": { "claim.a.b": {}, "claim.a.c": {} }, "unsaved": [], "reasons": {}, "missing": [], "notes": [], "losses": 2,
    });
    round::Record { reasons, ..serde_json::from_value(json).unwrap() }
}

#[test]
fn a_rounds_numbers_are_those_of_the_last_one_and_name_no_claim() {
    let metrics = Metrics::new();
    let job = metrics.job("j");
    job.claims(&round(&[(round::Reason::Excluded, 3), (round::Reason::Secret, 1)]), 1);
    job.claims(&round(&[(round::Reason::Excluded, 2)]), 1);
    let all = metrics.all();
    let of = |state: &str| all.claims.with_label_values(&["j", state]).get();
    assert_eq!((of("saved"), of("failed"), of("missing")), (1, 1, 0));
    assert_eq!(all.claims_lost.with_label_values(&["j"]).get(), 3);
    let families = metrics.gather();
    let unsaved = families.iter().find(|family| family.name() == "penstock_claims_unsaved").unwrap();
    assert_eq!((unsaved.get_metric().len(), unsaved.get_metric()[0].get_gauge().get_value()), (1, 2.0));
}

#[test]
fn registered_metrics_are_exactly_the_published_ones() {
    let metrics = Metrics::new();
    metrics.started("1", "abc", 1.0);
    let (job, class, second) = (metrics.job("j"), Some(Class::KmsDenied), Duration::from_secs(1));
    job.ran(Outcome::Failure, class, second);
    job.last_success(1.0);
    job.last_outcome(Outcome::Failure);
    job.next_run(Some(1.0));
    job.interval(Some(second));
    job.skipped(SkipReason::Missed);
    job.read(1);
    job.file();
    job.warning();
    job.stored(1);
    job.deduplicated(1);
    job.snapshot_ended(Outcome::Failure, class, Some(second));
    job.snapshots_pending(1);
    let record = cluster(&[("pods", 3)]);
    job.listed(&record);
    job.objects([&record].into_iter());
    job.claims(&round(&[(round::Reason::Excluded, 1)]), 0);
    job.hooks_owed(1);
    job.backups(1);
    job.backup_deleted(Outcome::Success);
    let location = metrics.location("l");
    location.uploaded(1);
    location.downloaded(1);
    location.part_in_flight().arrived(second);
    location.upload_ended(Outcome::Success);
    location.upload_aborted(AbortReason::Failure, Outcome::Success);
    location.interrupted_uploads(1);
    location.lock_extended(Outcome::Failure);
    location.locks(Some((1.0, second)));
    location.swept(Outcome::Success);
    location.request("s3", "PutObject", Outcome::Success, second);
    location.retried("s3", Class::Transient);
    location.failed("s3", Class::Transient);
    location.credentials_expiry(Some(1.0));
    location.credentials_refreshed(Outcome::Success);
    location.certificate_expiry(Some(1.0));
    location.checked(Ok(()), 1.0);
    let gathered = metrics.gather();
    let (own, process): (Vec<_>, Vec<_>) = gathered.iter().partition(|family| family.name().starts_with("penstock_"));
    assert!(process.iter().any(|family| family.name() == "process_resident_memory_bytes"));
    let registered: BTreeSet<String> = own
        .into_iter()
        .map(|family| {
            let mut labels: Vec<&str> =
                family.get_metric()[0].get_label().iter().map(prometheus::proto::LabelPair::name).collect();
            labels.sort_unstable();
            format!("{}{{{}}}", family.name().trim_start_matches("penstock_"), labels.join(","))
        })
        .collect();
    assert_eq!(registered, PUBLISHED.iter().map(|fixed| (*fixed).to_owned()).collect());
    // A family with labels is published only once it has a series: this test gave one to each.
    let with_labels = PUBLISHED.iter().filter(|fixed| !fixed.ends_with("{}")).count();
    assert_eq!(metrics.inner.all.with_labels(), with_labels);
}

#[test]
fn a_part_that_never_arrived_leaves_no_duration() {
    let metrics = Metrics::new();
    let location = metrics.location("primary");
    drop(location.part_in_flight());
    location.part_in_flight().arrived(Duration::from_secs(1));
    let count = metrics.inner.all.upload_part_duration.with_label_values(&["primary"]).get_sample_count();
    assert_eq!(count, 1);
    assert_eq!(metrics.inner.all.upload_parts_in_flight.with_label_values(&["primary"]).get(), 0);
}
