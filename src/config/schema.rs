//! The JSON Schema of the file, for editors and for programs that write the file.
//!
//! Written by hand: a test compares its keys with those that the reader knows, and every key has a description. The
//! reader alone checks conditions that depend on other keys or on the environment.

use serde_json::{Value, json};

use super::location::MAX_PARTS;
use super::shapes::{
    Object, array, boolean, default_text, default_words, integer, list, named, share, size, string, tags, text, words,
};
use super::{LogLevel, source};
use crate::format::codec::{DEFAULT_LEVEL, LEVELS};

/// JSON Schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let what = "Configuration of Penstock. Strings may hold ${NAME} and ${NAME:-default}; $$ is a plain $. An empty string means: not set.";
    let mut schema = Object(what, &["cluster", "locations"]).of([
        text("cluster", "The cluster's name, the first part of every backup's key: [a-z0-9._-]."),
        text("node", "This machine's name. Not set: the host's name."),
        default_text("state_dir", "Journals of running uploads, and records of jobs.", "/var/lib/penstock"),
        text(
            "identity_file",
            "The private keys that open encrypted backups, only where one restores; `run` and `backup` never read it.",
        ),
        ("admin", admin()),
        ("log", log()),
        ("limits", limits()),
        ("kubernetes", kubernetes()),
        named("locations", "Buckets and how to reach them, each under a name.", &location()),
        named("jobs", "What is saved, where to and when, each under a name. The name adhoc is reserved.", &job()),
    ]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("penstock.toml");
    schema
}

fn admin() -> Value {
    Object("Where the daemon listens.", &[]).of([
        default_text(
            "listen",
            "Address and port of /metrics, /healthz, /readyz and /api/v1/status: read-only.",
            "127.0.0.1:9632",
        ),
        default_text("socket", "Socket of trigger and reload: this user only.", "/run/penstock/control.sock"),
        text("tls_certificate", "The server's certificate and its chain, PEM. Not set: plain HTTP."),
        text("tls_key", "The key of that certificate, PEM."),
    ])
}

fn log() -> Value {
    let words = LogLevel::WORDS.map(|(word, _)| word);
    Object("What the daemon logs.", &[]).of([default_words("level", "The least severe events to log.", &words)])
}

fn kubernetes() -> Value {
    Object("The Kubernetes cluster whose objects are saved.", &[]).of([
        text(
            "kubeconfig",
            "A kubeconfig file. Not set: the pod's service account, else $KUBECONFIG, else ~/.kube/config.",
        ),
        text("context", "One of the kubeconfig's contexts. Not set: its current-context."),
    ])
}

fn limits() -> Value {
    Object("Limits of Penstock's resources.", &[]).of([
        size("memory", "Buffers of every job together. A stream needs one part and 25MiB.", "256MiB"),
        integer("concurrent_jobs", "Jobs that run at a time.", 1, 1000, 2),
        size("bandwidth", "Bytes per second of all uploads together, at least 64KiB; 0 for no limit.", "0"),
        integer("compression_threads", "0: one for each core.", 0, 1024, 0),
    ])
}

fn location() -> Value {
    Object("A bucket and how to reach it.", &["provider", "bucket", "region"]).of([
        words("provider", "The kind of store.", &["aws"]),
        text("bucket", "The bucket's name."),
        text("region", "The bucket's region, such as eu-west-1."),
        text("prefix", "In front of every key; no / first."),
        text("s3_url", "S3's endpoint, where it is not AWS's own: http or https, host, port."),
        text("sts_url", "STS's endpoint, where it is not AWS's own."),
        text("ec2_url", "EC2's endpoint, where it is not AWS's own."),
        boolean("force_path_style", "https://HOST/BUCKET/KEY rather than https://BUCKET.HOST/KEY.", false),
        text("certificate", "A PEM bundle of certificate authorities, for S3, STS and EC2."),
        default_words(
            "certificate_mode",
            "Trust the bundle besides the system's roots (add) or instead of them (only).",
            &["add", "only"],
        ),
        default_words("checksum", "What the server checks each part with.", &["crc64nvme", "crc32c", "sha256", "none"]),
        text("storage_class", "Such as STANDARD_IA. Not set: the bucket's default."),
        tags("tags", "Put on each object, at most 10.", 10),
        ("credentials", credentials()),
        list("assume_role", "The roles to assume, in order, each from the one before.", &hop()),
        ("encryption", encryption()),
        ("client_encryption", client_encryption()),
        ("object_lock", object_lock()),
        ("upload", upload()),
    ])
}

fn credentials() -> Value {
    Object("The credentials with which Penstock assumes the first role.", &[]).of([
        default_words(
            "source",
            "Where the base credentials come from.",
            &["default", "static", "profile", "web-identity"],
        ),
        text("access_key_id", "static: the key's ID."),
        text("access_key_id_file", "static: the file that holds the key's ID."),
        text("secret_access_key", "static: the secret."),
        text("secret_access_key_file", "static: the file that holds the secret."),
        text("session_token", "static: the session's token, for temporary keys only."),
        text("session_token_file", "static: the file that holds the session's token."),
        text("profile", "profile: its name in the AWS configuration file."),
        text("token_file", "web-identity: the file that holds the token."),
        text("role_arn", "web-identity: the role that the token is for."),
    ])
}

fn hop() -> Value {
    Object("One AssumeRole.", &["role_arn"]).of([
        text("role_arn", "The role, such as arn:aws:iam::222222222222:role/BackupWriter."),
        text("external_id", "What the role's trust policy asks for: 2 to 1224 characters."),
        text("external_id_file", "The file that holds the external ID."),
        default_text("duration", "How long a session lasts: 15m to 12h, in a chain to 1h.", "1h"),
        default_text("session_name", "Shown in CloudTrail: 2 to 64 characters.", "penstock-${NODE_NAME:-host}"),
    ])
}

fn encryption() -> Value {
    Object("Encryption at rest.", &[]).of([
        default_words(
            "mode",
            "The encryption that each upload asks for.",
            &["bucket-default", "sse-s3", "sse-kms", "dsse-kms"],
        ),
        text("kms_key_id", "sse-kms, dsse-kms: the key's ARN, ID or alias. Not set: the account's aws/s3 key."),
        boolean("bucket_key", "sse-kms: use an S3 bucket key, which saves requests to KMS.", true),
    ])
}

fn client_encryption() -> Value {
    let recipient = string("A public key of age, age1…");
    Object("Encryption on this machine, which then cannot read its own backups.", &[]).of([
        list(
            "recipients",
            "Who may read the backups, 1 to 63. Not set, and no recipients_file: nothing is encrypted.",
            &recipient,
        ),
        text("recipients_file", "A file of recipients, one a line, read at each run."),
        text(
            "index_identity_file",
            "A private key for indexes only: whoever has it reads names and digests, not content.",
        ),
    ])
}

fn object_lock() -> Value {
    Object("S3's Object Lock on what backups need, made longer for as long as they need it. No mode: off.", &[]).of([
        words(
            "mode",
            "governance: s3:BypassGovernanceRetention can end a lock. compliance: nobody can.",
            &["governance", "compliance"],
        ),
        text("period", "How long an object stays locked after the last time a backup needed it, 1d to 3650d."),
    ])
}

fn upload() -> Value {
    Object("How data is sent.", &[]).of([
        size("part_size", "5MiB to 1GiB.", "16MiB"),
        integer("concurrency", "Parts or GETs in flight for one stream; 0 lets Penstock choose.", 0, 1000, 8),
        size(
            "object_size",
            &format!("A longer stream continues in another object: one part to {MAX_PARTS}, at most 5TiB."),
            "64GiB",
        ),
        default_words(
            "sign_payload",
            "Whether a request's signature covers its data; auto: not over TLS.",
            &["auto", "always", "never"],
        ),
    ])
}

fn job() -> Value {
    Object("What is saved, where to, and when.", &["location", "sources"]).of([
            text("location", "One of the locations."),
            text(
                "schedule",
                "As in crontab(5): minute, hour, day of the month, month, day of the week; or @daily. Not set: only by hand.",
            ),
            default_text("jitter", "Each run starts later by a time up to this, fixed for the node and job.", "0s"),
            default_words("catch_up", "After missed runs: one run at once, or none.", &["once", "never"]),
            default_text("time_zone", "The time zone of the schedule, such as Europe/Berlin.", "UTC"),
            text("timeout", "A run that takes longer is stopped. Not set: no limit."),
            boolean("incremental", "Store only what the last backup does not have.", true),
            text(
                "full_every",
                "The next backup is full if the last full one is older than this, such as 30d. Not set: never.",
            ),
            share("min_live", "A backup stores the chunks of an object again if less of it than this is live.", 0.3),
            default_words("compression", "How data is compressed.", &["zstd", "none"]),
            integer("compression_level", "zstd: its level.", *LEVELS.start(), *LEVELS.end(), DEFAULT_LEVEL),
            ("retention", retention()),
            list(
                "before",
                "Commands before the run; a failed command fails the run.",
                &array("One command.", &string("A word of it.")),
            ),
            list(
                "after",
                "Commands after the run, however it ended.",
                &array("One command.", &string("A word of it.")),
            ),
            default_text("hook_timeout", "How long each of these commands may take.", "5m"),
            list("sources", "What is saved.", &source::schema()),
        ])
}

fn retention() -> Value {
    let count =
        |key, what: &str| (key, json!({"description": what, "type": "integer", "minimum": 0, "maximum": u32::MAX}));
    Object("A backup stays as long as one rule keeps it. Not set: every backup stays.", &[]).of([
        count("keep_last", "Keep this many of the newest."),
        count("keep_daily", "Keep the newest of each day, for this many days."),
        count("keep_weekly", "Keep the newest of each week, for this many weeks."),
        count("keep_monthly", "Keep the newest of each month, for this many months."),
        count("keep_yearly", "Keep the newest of each year, for this many years."),
        text("keep_within", "Keep all that are no older than this, counted from the newest, such as 2d."),
        default_text("grace", "How long the objects of a deleted backup stay: the time of the longest restore.", "24h"),
    ])
}
