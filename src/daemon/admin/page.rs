//! Renders the page at `/`: the status document as HTML. One file without a script or anything from another server. Escapes every
//! value from outside. The page reloads itself.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use hyper::header::HeaderValue;
use indicatif::BinaryBytes;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::super::status::{ErrorStatus, JobStatus, LastRun, LocationStatus, Status, when};
use crate::error::Report;
use crate::metrics::Outcome;

const STYLE: &str = include_str!("page.css");

const RELOAD_SECONDS: u32 = 5;

/// Credentials that are renewed in time always have longer than this.
const CREDENTIALS_SOON: SignedDuration = SignedDuration::from_mins(2);
const CERTIFICATE_SOON: SignedDuration = SignedDuration::from_hours(24 * 14);

/// Allows the browser to load the page's own style, by its hash, and the icon in the page.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        HeaderValue::from_str(&policy).expect("base64 and constants are header text")
    });
    POLICY.clone()
}

/// Text from a configuration or a reply.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The text of [`when`], with the exact time as a tooltip.
struct When(Timestamp, Timestamp);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(at, now) = self;
        let exact = at.strftime("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "<time datetime=\"{exact}\" title=\"{exact}\">{}</time>", when(*at, *now))
    }
}

/// The value, or a dash if it is absent.
fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "<span class=\"quiet\">–</span>".to_owned(), |value| value.to_string())
}

pub(super) fn render(status: &Status) -> String {
    let mut html = String::with_capacity(16 << 10);
    // Writing to a string does not fail.
    let _ = page(&mut html, status);
    html
}

fn page(html: &mut String, status: &Status) -> fmt::Result {
    let (cluster, node) = (Escaped(&status.cluster), Escaped(&status.node));
    let (class, state) = if status.ready { ("good", "ready") } else { ("bad", "not ready") };
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Penstock · {node}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{RELOAD_SECONDS}\">\
         <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E\">\
         <style>{STYLE}</style></head><body>\
         <header><h1>Penstock</h1><span>{cluster} / {node}</span><span class=\"state {class}\">{state}</span>\
         <span class=\"quiet\">started {}, memory {} of {}</span></header><main>",
        When(status.started, status.now),
        BinaryBytes(status.memory.in_use_bytes),
        BinaryBytes(status.memory.budget_bytes),
    )?;
    if let Some(why) = &status.not_ready {
        write!(html, "<p class=\"note\"><strong>Not ready:</strong> {}</p>", Escaped(why))?;
    }
    if let Some(refused) = &status.configuration.refused {
        let message = Escaped(&refused.report.message);
        write!(
            html,
            "<p class=\"note\"><strong>The configuration was refused, the old one stays in force:</strong> {message}</p>"
        )?;
    }
    // What a telephone shows before it scrolls: whether the last runs succeeded, and when.
    jobs(html, status)?;
    running(html, status)?;
    locations(html, status)?;
    errors(html, status)?;
    writeln!(
        html,
        "</main><footer>Penstock {} · as of {} · <a href=\"/api/v1/status\">JSON</a> · <a href=\"/metrics\">metrics</a>\
         </footer></body></html>",
        Escaped(&status.version),
        status.now.strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
}

fn running(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<h2>Running now</h2>")?;
    if status.jobs.iter().all(|job| job.running.is_none() && job.waiting_since.is_none()) {
        return html.write_str("<p class=\"quiet\">Nothing runs.</p>");
    }
    table(
        html,
        &["Job", "Since", "Progress", "Read", "Stored", "Entries", "Objects", "Warnings", "Snapshots, volumes"],
    )?;
    for job in &status.jobs {
        let name = Escaped(&job.name);
        if let Some(since) = job.waiting_since {
            let since = When(since, status.now);
            write!(
                html,
                "<tr><td>{name}</td><td>{since}</td><td colspan=\"7\" class=\"quiet\">waits for others</td></tr>"
            )?;
        }
        let Some(run) = &job.running else { continue };
        let of = run.expected_bytes.map(|expected| expected.max(run.plain_bytes));
        let bar = of.map_or_else(String::new, |of| format!(" value=\"{}\" max=\"{of}\"", run.plain_bytes));
        let total = of.map_or_else(String::new, |of| format!(" of {}", BinaryBytes(of)));
        let snapshots = match (run.snapshots, run.volumes) {
            (0, 0) => String::new(),
            (0, all) => {
                let failed =
                    if run.volumes_failed == 0 { String::new() } else { format!(", {} failed", run.volumes_failed) };
                format!("{} of {all}{failed} {}", run.volumes_done, Escaped(run.volume.as_deref().unwrap_or_default()))
            }
            (all, _) => format!("{} of {all}", run.snapshots_completed),
        };
        let objects = match (run.objects, &run.listing) {
            (0, None) => String::new(),
            (objects, kind) => format!("{objects} {}", Escaped(kind.as_deref().unwrap_or_default())),
        };
        write!(
            html,
            "<tr><td>{name}</td><td>{}, {}</td><td><progress aria-label=\"{name}\"{bar}></progress></td>\
             <td>{}{total}</td><td>{}</td><td>{}</td><td>{objects}</td><td>{}</td><td>{snapshots}</td></tr>",
            When(run.since, status.now),
            Escaped(&run.cause),
            BinaryBytes(run.plain_bytes),
            BinaryBytes(run.stored_bytes),
            run.files,
            run.warnings,
        )?;
    }
    html.write_str("</table></div>")
}

fn locations(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<h2>Locations</h2>")?;
    table(html, &["Location", "Bucket", "State", "Last check", "Credentials", "CA bundle", "Error"])?;
    for location in &status.locations {
        let LocationStatus { name, bucket, region, error, .. } = location;
        let (class, state) = match location.up {
            Some(true) => ("good", "up"),
            Some(false) => ("bad", "down"),
            None => ("quiet", "not checked yet"),
        };
        let soon = |at: Option<Timestamp>, soon| at.is_some_and(|at| at.duration_since(status.now) < soon);
        let warn = |soon| if soon { "warn" } else { "quiet" };
        let (credentials, expiry) = (location.credentials.as_str(), location.credentials_expire);
        let class_of_credentials = if credentials == "refused" { "bad" } else { warn(soon(expiry, CREDENTIALS_SOON)) };
        write!(
            html,
            "<tr><td>{}</td><td><code>{}</code> <span class=\"quiet\">{}</span></td><td class=\"state {class}\">{state}</td>\
             <td>{}</td><td class=\"{class_of_credentials}\">{}{}</td><td class=\"{}\">{}</td><td class=\"message\">{}</td></tr>",
            Escaped(name),
            Escaped(bucket),
            Escaped(region),
            or_dash(location.last_check.map(|at| When(at, status.now))),
            Escaped(credentials),
            expiry.map_or_else(String::new, |at| format!(", expire {}", When(at, status.now))),
            warn(soon(location.certificate_expires, CERTIFICATE_SOON)),
            or_dash(location.certificate_expires.map(|at| When(at, status.now))),
            or_dash(error.as_ref().map(failed)),
        )?;
    }
    html.write_str("</table></div>")
}

fn jobs(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<h2>Jobs</h2>")?;
    table(html, &["Job", "Outcome", "Last success", "Last run", "Next run", "Schedule", "Location"])?;
    for job in &status.jobs {
        let JobStatus { name, location, schedule, time_zone, next_run, retry, last, last_success, .. } = job;
        let schedule = schedule.as_ref().map(|cron| format!("<code>{}</code> {}", Escaped(cron), Escaped(time_zone)));
        let next = match retry {
            Some(retry) => Some(format!("{}, a retry", When(*retry, status.now))),
            None => next_run.map(|at| When(at, status.now).to_string()),
        };
        write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(name),
            or_dash(last.as_ref().map(outcome)),
            or_dash(last_success.map(|at| When(at, status.now))),
            or_dash(last.as_ref().map(|last| When(last.finished, status.now))),
            or_dash(next),
            or_dash(schedule),
            Escaped(location),
        )?;
    }
    html.write_str("</table></div>")
}

fn outcome(last: &LastRun) -> String {
    let class = match last.outcome {
        Outcome::Success => "good",
        Outcome::Partial | Outcome::Cancelled => "warn",
        Outcome::Failure => "bad",
    };
    let why = last.error.as_ref().map_or_else(String::new, |error| format!(": {}", Escaped(error.class.as_str())));
    format!("<span class=\"state {class}\">{}{why}</span>", last.outcome.as_str())
}

fn failed(error: &Report) -> String {
    let quiet = |what: &str, text: &Option<String>| {
        let text = text.as_ref();
        text.map_or_else(String::new, |text| format!("<br><span class=\"quiet\">{what}: {}</span>", Escaped(text)))
    };
    let remedy = quiet("What to do", &error.remedy) + &quiet("Request ID", &error.request_id);
    format!("<span class=\"state bad\">{}</span> {}{remedy}", Escaped(error.class.as_str()), Escaped(&error.message))
}

fn errors(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<h2>Last errors</h2>")?;
    if status.errors.is_empty() {
        return html.write_str("<p class=\"quiet\">None since the start.</p>");
    }
    table(html, &["When", "What", "Error"])?;
    for ErrorStatus { at, kind, name, report: error } in &status.errors {
        let (when, kind, name) = (When(*at, status.now), Escaped(kind), Escaped(name));
        write!(html, "<tr><td>{when}</td><td>{kind} {name}</td><td class=\"message\">{}</td></tr>", failed(error))?;
    }
    html.write_str("</table></div>")
}

fn table(html: &mut String, columns: &[&str]) -> fmt::Result {
    html.write_str("<div class=\"wide\"><table><tr>")?;
    for column in columns {
        write!(html, "<th scope=\"col\">{column}</th>")?;
    }
    html.write_str("</tr>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    /// The colours of a theme in the style.
    fn colours(theme: &str) -> Vec<(String, [f64; 3])> {
        let pairs = theme.split(';').filter_map(|line| line.trim().rsplit_once("--")?.1.split_once(": #"));
        let channel = |hex: &str, at: usize| {
            let value = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        pairs.map(|(name, hex)| (name.to_owned(), [0, 2, 4].map(|at| channel(hex, at)))).collect()
    }

    /// WCAG 2.1, 1.4.3: 4.5 to 1 for text, on both grounds and in both themes.
    #[test]
    fn every_colour_of_text_has_aa_contrast_in_both_themes() {
        let luminance = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
        let themes: Vec<_> = STYLE.split(":root").skip(1).map(colours).collect();
        assert_eq!(themes.len(), 2);
        for theme in themes {
            let of = |name: &str| luminance(theme.iter().find(|(n, _)| n == name).unwrap().1);
            for ground in ["ground", "raised"].map(of) {
                for text in ["text", "quiet", "good", "warn", "bad", "bar"] {
                    let (text, name) = (of(text), text);
                    let ratio = (ground.max(text) + 0.05) / (ground.min(text) + 0.05);
                    assert!(ratio >= 4.5, "{name}: {ratio:.2}");
                }
            }
        }
    }

    #[test]
    fn every_value_from_outside_is_escaped() {
        assert_eq!(Escaped("<a b=\"c\">&'").to_string(), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
        let now = Timestamp::UNIX_EPOCH;
        let evil = "<script>x</script>";
        let fault = Report { request_id: Some(evil.into()), ..Report::new(Class::Internal, evil).remedy(evil) };
        let json = serde_json::json!({
            "version": evil, "cluster": evil, "node": evil, "started": now, "now": now, "ready": false, "not_ready": evil,
            "configuration": {"file": evil, "loaded": now,
                "refused": {"at": now, "kind": evil, "name": evil, "class": evil, "message": evil, "remedy": evil}},
            "memory": {"budget_bytes": 1, "in_use_bytes": 1},
            "locations": [{"name": evil, "bucket": evil, "region": evil, "up": false, "last_check": now, "error": fault,
                "credentials": evil, "credentials_expire": now, "certificate_expires": now}],
            "jobs": [{"name": evil, "location": evil, "schedule": evil, "time_zone": evil, "next_run": now, "retry": now,
                "waiting_since": now, "last_success": now,
                "running": {"since": now, "cause": evil, "plain_bytes": 5, "expected_bytes": 4, "stored_bytes": 1,
                    "files": 1, "warnings": 1, "snapshots": 3, "snapshots_completed": 2},
                "last": {"started": now, "finished": now, "outcome": "partial", "backup": evil, "error": fault}}],
            "errors": [{"at": now, "kind": evil, "name": evil, "class": evil, "message": evil, "remedy": evil}],
        });
        let html = render(&serde_json::from_value(json).unwrap());
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("&lt;script&gt;") && html.contains("value=\"5\" max=\"5\""));
        assert!(html.contains("<td>2 of 3</td>"), "{html}");
        // In the order in which a telephone shows them.
        let first =
            ["<h2>Jobs", ">Job<", ">Outcome<", ">Last success<", ">Schedule<", "<h2>Running now", "<h2>Locations"];
        let places: Vec<_> = first.map(|text| html.find(text).expect(text)).into();
        assert!(places.is_sorted(), "{places:?}");
    }
}
