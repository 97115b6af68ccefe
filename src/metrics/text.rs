//! Writes the registry for a scrape, in Prometheus' text format or OpenMetrics.

use prometheus::TextEncoder;
use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// The answer to a scrape.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let mut text = String::new();
        for family in self.gather() {
            match format {
                Format::Text => encode(&family, &mut text),
                Format::OpenMetrics => open_metrics(&family, &mut text),
            }
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn encode(family: &MetricFamily, text: &mut String) {
    let encoded = TextEncoder::new().encode_utf8(std::slice::from_ref(family), text);
    debug_assert!(encoded.is_ok(), "the registry has no family without a name or a series");
}

/// OpenMetrics differs in one way: HELP and TYPE of a counter have its name without `_total`.
fn open_metrics(family: &MetricFamily, text: &mut String) {
    let start = text.len();
    encode(family, text);
    if family.get_field_type() == MetricType::COUNTER
        && let Some(short) = family.name().strip_suffix("_total")
    {
        for comment in ["HELP", "TYPE"] {
            let long = format!("# {comment} {} ", family.name());
            if let Some(at) = text[start..].find(&long) {
                text.replace_range(start + at..start + at + long.len(), &format!("# {comment} {short} "));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Outcome;

    #[test]
    fn counters_are_described_without_total_in_open_metrics_only() {
        let metrics = Metrics::new();
        metrics.location("a").swept(Outcome::Success);
        let sample = "penstock_swept_uploads_total{location=\"a\",outcome=\"success\"} 1\n";
        let text = metrics.render(Format::Text);
        assert!(text.contains("# TYPE penstock_swept_uploads_total counter\n") && text.contains(sample));
        assert!(!text.contains("# EOF"));
        let open = metrics.render(Format::OpenMetrics);
        assert!(open.contains("# TYPE penstock_swept_uploads counter\n") && open.contains(sample), "{open}");
        assert!(open.contains("# HELP penstock_swept_uploads ") && open.ends_with("\n# EOF\n"));
    }
}
