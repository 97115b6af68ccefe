//! The JSON Schema of the file, for editors and for whoever writes the file by machine.
//!
//! Written by hand: a test holds its keys to the ones that the reader asks for, and every key has a description. It
//! promises less than the reader checks: what depends on other keys, or on the environment, only the reader knows.

use serde_json::{Map, Value, json};

use super::LogLevel;

/// A string that holds a variable, or nothing, may stand wherever a word does.
const VARIABLE_OR_EMPTY: &str = r"^$|\$\{";

/// JSON Schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(
        "Configuration of Penstock. Strings may hold ${NAME} and ${NAME:-default}; $$ is a plain $. An empty string means: not set.",
        &["cluster", "locations"],
        [
            ("cluster", text("The cluster's name, the first part of every backup's key: [a-z0-9._-].")),
            ("node", text("This machine's name. Not set: the host's name.")),
            (
                "state_dir",
                with_default(text("Journals of running uploads, and what the daemon remembers."), "/var/lib/penstock"),
            ),
            ("admin", admin()),
            ("log", log()),
            ("limits", limits()),
            ("kubernetes", kubernetes()),
            ("locations", named("Buckets and how to reach them, each under a name.", &location())),
            ("jobs", named("What is saved, where to and when, each under a name. The name adhoc is taken.", &job())),
        ],
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("penstock.toml");
    schema
}

fn admin() -> Value {
    object(
        "Where the daemon is asked.",
        &[],
        [
            (
                "listen",
                with_default(
                    text("Address and port of /metrics, /healthz, /readyz and /api/v1/status: read-only."),
                    "127.0.0.1:9632",
                ),
            ),
            (
                "socket",
                with_default(text("Socket of trigger and reload: this user only."), "/run/penstock/control.sock"),
            ),
            ("tls_certificate", text("The server's certificate and its chain, PEM. Not set: plain HTTP.")),
            ("tls_key", text("The key of that certificate, PEM.")),
        ],
    )
}

fn log() -> Value {
    let words = LogLevel::WORDS.map(|(word, _)| word);
    object("What the daemon logs.", &[], [("level", default_words("The least grave events that are logged.", &words))])
}

fn kubernetes() -> Value {
    object(
        "The Kubernetes cluster whose objects are saved.",
        &[],
        [
            (
                "kubeconfig",
                text("A kubeconfig file. Not set: the pod's service account, else $KUBECONFIG, else ~/.kube/config."),
            ),
            ("context", text("One of the kubeconfig's contexts. Not set: its current-context.")),
        ],
    )
}

fn limits() -> Value {
    object(
        "What Penstock may use.",
        &[],
        [
            ("memory", size("Buffers of every job together. A stream needs one part and 25MiB.", "256MiB")),
            ("concurrent_jobs", integer("Jobs that run at a time.", 1, 1000, 2)),
            ("bandwidth", size("Bytes per second of all uploads together, at least 64KiB; 0 for no limit.", "0")),
            ("compression_threads", integer("0: one for each core.", 0, 1024, 0)),
        ],
    )
}

fn location() -> Value {
    object(
        "A bucket and how to reach it.",
        &["provider", "bucket", "region"],
        [
            ("provider", words("The kind of store.", &["aws"])),
            ("bucket", text("The bucket's name.")),
            ("region", text("The bucket's region, such as eu-west-1.")),
            ("prefix", text("In front of every key; no / first.")),
            ("s3_url", text("S3's endpoint, where it is not AWS's own: http or https, host, port.")),
            ("sts_url", text("STS's endpoint, where it is not AWS's own.")),
            ("ec2_url", text("EC2's endpoint, where it is not AWS's own.")),
            ("force_path_style", boolean("https://HOST/BUCKET/KEY rather than https://BUCKET.HOST/KEY.", false)),
            ("certificate", text("A PEM bundle of certificate authorities, for S3, STS and EC2.")),
            (
                "certificate_mode",
                default_words(
                    "Trust the bundle besides the system's roots (add) or instead of them (only).",
                    &["add", "only"],
                ),
            ),
            (
                "checksum",
                default_words("What the server checks each part with.", &["crc64nvme", "crc32c", "sha256", "none"]),
            ),
            ("storage_class", text("Such as STANDARD_IA. Not set: the bucket's default.")),
            ("tags", tags("Put on each object, at most 10.", 10)),
            ("credentials", credentials()),
            ("assume_role", list("The roles to assume, in order, each from the one before.", &hop())),
            ("encryption", encryption()),
            ("upload", upload()),
        ],
    )
}

fn credentials() -> Value {
    object(
        "Who Penstock is before it assumes a role.",
        &[],
        [
            (
                "source",
                default_words(
                    "Where the base credentials come from.",
                    &["default", "static", "profile", "web-identity"],
                ),
            ),
            ("access_key_id", text("static: the key's ID.")),
            ("access_key_id_file", text("static: the file that holds the key's ID.")),
            ("secret_access_key", text("static: the secret.")),
            ("secret_access_key_file", text("static: the file that holds the secret.")),
            ("session_token", text("static: the session's token, for temporary keys only.")),
            ("session_token_file", text("static: the file that holds the session's token.")),
            ("profile", text("profile: its name in the AWS configuration file.")),
            ("token_file", text("web-identity: the file that holds the token.")),
            ("role_arn", text("web-identity: the role that the token is for.")),
        ],
    )
}

fn hop() -> Value {
    object(
        "One AssumeRole.",
        &["role_arn"],
        [
            ("role_arn", text("The role, such as arn:aws:iam::222222222222:role/BackupWriter.")),
            ("external_id", text("What the role's trust policy asks for: 2 to 1224 characters.")),
            ("external_id_file", text("The file that holds the external ID.")),
            ("duration", with_default(text("How long a session lasts: 15m to 12h, in a chain to 1h."), "1h")),
            (
                "session_name",
                with_default(text("Shown in CloudTrail: 2 to 64 characters."), "penstock-${NODE_NAME:-host}"),
            ),
        ],
    )
}

fn encryption() -> Value {
    object(
        "Encryption at rest.",
        &[],
        [
            (
                "mode",
                default_words(
                    "What is asked for with each object.",
                    &["bucket-default", "sse-s3", "sse-kms", "dsse-kms"],
                ),
            ),
            ("kms_key_id", text("sse-kms, dsse-kms: the key's ARN, ID or alias. Not set: the account's aws/s3 key.")),
            ("bucket_key", boolean("sse-kms: use an S3 bucket key, which saves requests to KMS.", true)),
        ],
    )
}

fn upload() -> Value {
    object(
        "How data is sent.",
        &[],
        [
            ("part_size", size("5MiB to 1GiB.", "16MiB")),
            ("concurrency", integer("Parts in flight for one stream; 0 lets Penstock choose.", 0, 1000, 8)),
            (
                "object_size",
                size("A longer stream goes on in a next object: one part to 10,000, at most 5TiB.", "64GiB"),
            ),
            (
                "sign_payload",
                default_words(
                    "Whether a request's signature covers its data; auto: not over TLS.",
                    &["auto", "always", "never"],
                ),
            ),
        ],
    )
}

fn job() -> Value {
    object(
        "What is saved, where to, and when.",
        &["location", "sources"],
        [
            ("location", text("One of the locations.")),
            (
                "schedule",
                text(
                    "As in crontab(5): minute, hour, day of the month, month, day of the week; or @daily. Not set: only by hand.",
                ),
            ),
            ("jitter", with_default(text("Each run is put off by a random time up to this."), "0s")),
            ("catch_up", default_words("After missed runs: one run at once, or none.", &["once", "never"])),
            ("time_zone", with_default(text("Whose clock the schedule goes by, such as Europe/Berlin."), "UTC")),
            ("timeout", text("A run that takes longer is stopped. Not set: no limit.")),
            ("incremental", boolean("Store only what the last backup does not have.", true)),
            (
                "full_every",
                text("So long after the last full backup, the next one is full, such as 30d. Not set: never."),
            ),
            ("min_live", share("An object of which less is needed is not referred to any more.", 0.3)),
            ("compression", default_words("How data is compressed.", &["zstd", "none"])),
            ("compression_level", integer("zstd: its level.", 1, 19, 1)),
            ("retention", retention()),
            (
                "before",
                list(
                    "Commands before the run; one that fails, fails it.",
                    &list("One command.", &text("A word of it.")),
                ),
            ),
            ("after", list("Commands after the run, however it ended.", &list("One command.", &text("A word of it.")))),
            ("hook_timeout", with_default(text("How long each of these commands may take."), "5m")),
            ("sources", list("What is saved.", &source())),
        ],
    )
}

fn retention() -> Value {
    let count = |what: &str| json!({"description": what, "type": "integer", "minimum": 0, "maximum": u32::MAX});
    object(
        "A backup stays as long as one rule keeps it. Not set: every backup stays.",
        &[],
        [
            ("keep_last", count("How many of the newest.")),
            ("keep_daily", count("The newest of each of so many days.")),
            ("keep_weekly", count("The newest of each of so many weeks.")),
            ("keep_monthly", count("The newest of each of so many months.")),
            ("keep_within", text("All that are no older than this, counted from the newest, such as 2d.")),
            ("grace", with_default(text("How long what a deleted backup needs stays: the longest restore."), "24h")),
        ],
    )
}

fn source() -> Value {
    object(
        "One thing that a job saves.",
        &["type", "name"],
        [
            ("type", words("What it is.", &["tree", "file", "command", "ebs"])),
            ("name", text("Names the item in the backup, once in a job: [a-z0-9._-].")),
            ("path", text("tree: a glob, one item for each match. file: the file. Begins with /.")),
            ("exclude", list("tree: what is left out.", &text("A glob against the path below the folder."))),
            (
                "one_file_system",
                boolean(
                    "tree: do not enter directories on which another file system or subvolume is mounted; they are listed.",
                    true,
                ),
            ),
            (
                "argv",
                list(
                    "command: the program and its arguments; what it prints is saved.",
                    &text("One word; no shell reads it."),
                ),
            ),
            ("allow_empty", boolean("command: that it writes nothing at all is no failure.", false)),
            ("volumes", list("ebs: the volumes; not together with select_tags.", &text("A volume's ID."))),
            ("select_tags", tags("ebs: the tags that select volumes.", 50)),
            ("attached_to", text("ebs: only volumes attached to this-instance, or to an instance's ID.")),
            ("tags", tags("ebs: put on the snapshots.", 50)),
            ("copy_volume_tags", boolean("ebs: put the volume's tags on the snapshots too.", true)),
            (
                "on_no_match",
                default_words("ebs: what it means that no volume is selected.", &["error", "warn", "ignore"]),
            ),
            ("concurrency", integer("ebs: snapshots being created at a time.", 1, 100, 8)),
            ("wait", boolean("ebs: wait until the snapshots are complete.", true)),
            ("wait_timeout", with_default(text("ebs: for how long."), "4h")),
        ],
    )
}

fn object<const N: usize>(description: &str, required: &[&str], properties: [(&str, Value); N]) -> Value {
    let properties: Map<_, _> = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn named(description: &str, each: &Value) -> Value {
    json!({"description": description, "type": "object", "additionalProperties": each})
}

fn list(description: &str, each: &Value) -> Value {
    json!({"description": description, "type": "array", "items": each})
}

fn tags(description: &str, most: u32) -> Value {
    let value = json!({"type": "string"});
    json!({"description": description, "type": "object", "maxProperties": most, "additionalProperties": value})
}

fn text(description: &str) -> Value {
    json!({"description": description, "type": "string"})
}

fn with_default(mut schema: Value, default: &str) -> Value {
    schema["default"] = json!(default);
    schema
}

fn boolean(description: &str, default: bool) -> Value {
    json!({"description": description, "type": "boolean", "default": default})
}

fn integer(description: &str, least: u32, most: u32, default: u32) -> Value {
    json!({"description": description, "type": "integer", "minimum": least, "maximum": most, "default": default})
}

fn share(description: &str, default: f64) -> Value {
    json!({"description": description, "type": "number", "minimum": 0, "maximum": 1, "default": default})
}

fn size(description: &str, default: &str) -> Value {
    json!({"description": description, "type": ["string", "integer"], "minimum": 0, "default": default})
}

fn words(description: &str, words: &[&str]) -> Value {
    json!({
        "description": description,
        "anyOf": [{"enum": words}, {"type": "string", "pattern": VARIABLE_OR_EMPTY}],
    })
}

/// The first word is the default.
fn default_words(description: &str, choices: &[&str]) -> Value {
    with_default(words(description, choices), choices.first().copied().unwrap_or_default())
}
