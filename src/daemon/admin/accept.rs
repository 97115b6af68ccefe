//! Reads the `Accept` headers of RFC 9110, section 12.5, with their weights: which form a caller prefers.

use hyper::header::{HeaderMap, HeaderName};

/// One element of the list: a name with its parameters, and its weight.
struct Range<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    weight: f32,
}

/// The header as one list, however many lines it came in.
pub(super) fn list(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    lines.join(",")
}

fn ranges(list: &str) -> impl Iterator<Item = Range<'_>> {
    list.split(',').filter(|element| !element.trim().is_empty()).map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let pairs = parts.filter_map(|part| part.split_once('='));
        let (mut parameters, mut weight) = (Vec::new(), 1.0);
        for (key, value) in pairs.map(|(key, value)| (key.trim(), value.trim().trim_matches('"'))) {
            if key.eq_ignore_ascii_case("q") {
                // An invalid weight counts as absent.
                weight = value.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0);
            } else {
                parameters.push((key, value));
            }
        }
        Range { name, parameters, weight }
    })
}

impl Range<'_> {
    fn version(&self) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case("version"));
        found.map(|(_, version)| *version)
    }
}

/// The weight that `list` gives the media type `offer`, such as `text/plain; version=0.0.4`: that of the most specific range that
/// covers it, or 0, not acceptable, if none does.
pub(super) fn weight_of_type(list: &str, offer: &str) -> f32 {
    let Some(offer) = ranges(offer).next() else { return 0.0 };
    let kind = offer.name.split('/').next().unwrap_or_default();
    let rank = |range: &Range<'_>| {
        let rank = if range.name.eq_ignore_ascii_case(offer.name) {
            3 + u8::from(range.version().is_some())
        } else if range.name.split_once('/').is_some_and(|(of, all)| all == "*" && of.eq_ignore_ascii_case(kind)) {
            2
        } else if range.name == "*/*" {
            1
        } else {
            return None;
        };
        (range.version().is_none() || range.version() == offer.version()).then_some(rank)
    };
    best(list, rank).unwrap_or(0.0)
}

/// The weight that `list` gives the content coding `offer`; `None` if no element covers it.
pub(super) fn weight_of_coding(list: &str, offer: &str) -> Option<f32> {
    best(list, |range| {
        let named = range.name.eq_ignore_ascii_case(offer).then_some(2);
        named.or_else(|| (range.name == "*").then_some(1))
    })
}

/// The weight of the range with the highest rank; of several such, the greatest.
fn best(list: &str, rank: impl Fn(&Range<'_>) -> Option<u8>) -> Option<f32> {
    let ranked = ranges(list).filter_map(|range| Some((rank(&range)?, range.weight)));
    let best = ranked.max_by(|(rank, weight), (other, heavier)| rank.cmp(other).then(weight.total_cmp(heavier)));
    best.map(|(_, weight)| weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    #[test]
    fn the_most_specific_range_gives_a_types_weight() {
        for (list, expected) in [
            ("", 0.0),
            ("application/openmetrics-text", 1.0),
            ("Application/OpenMetrics-Text; Q=0.5", 0.5),
            ("text/plain", 0.0),
            ("*/*;q=0.2", 0.2),
            ("application/*;q=0.3, */*;q=0.9", 0.3),
            ("*/*, application/openmetrics-text;q=0", 0.0),
            ("application/openmetrics-text;version=0.0.1;q=0.9, */*;q=0.1", 0.1),
            ("application/openmetrics-text;version=0.0.1;q=0.9,application/openmetrics-text;version=1.0.0;q=0.4", 0.4),
            ("application/openmetrics-text; version=\"1.0.0\"; escaping=allow-utf-8; q=0.6", 0.6),
            ("application/openmetrics-text;q=much", 1.0),
            ("application/openmetrics-text;q=7", 1.0),
            ("application/openmetrics-text;q=NaN", 1.0),
            (",;,=;q=,/", 0.0),
        ] {
            assert!((weight_of_type(list, OFFER) - expected).abs() < f32::EPSILON, "{list}");
        }
    }

    #[test]
    fn a_named_coding_outranks_the_star() {
        for (list, expected) in [
            ("", None),
            ("br", None),
            ("gzip", Some(1.0)),
            ("GZIP;q=0.5, br", Some(0.5)),
            ("*", Some(1.0)),
            ("gzip;q=0, *", Some(0.0)),
            ("*;q=0, gzip", Some(1.0)),
        ] {
            assert_eq!(weight_of_coding(list, "gzip"), expected, "{list}");
        }
    }

    #[test]
    fn a_header_in_several_lines_is_one_list() {
        let mut headers = HeaderMap::new();
        headers.append("accept", "text/html".parse().unwrap());
        headers.append("accept", "text/plain;q=0.5".parse().unwrap());
        assert_eq!(list(&headers, &hyper::header::ACCEPT), "text/html,text/plain;q=0.5");
    }
}
