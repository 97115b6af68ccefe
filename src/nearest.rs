//! Finds the name that was probably meant.

/// The one of `names` that is most similar to `text`, if any is similar at all.
#[must_use]
pub fn nearest(text: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    const ALIKE: f64 = 0.75;
    let rated = names.into_iter().map(|name| (strsim::jaro_winkler(text, &name), name));
    let best = rated.filter(|(alike, _)| *alike > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_nothing_has_no_nearest() {
        let names = || ["deployments", "pods", "prod-eu-1"].map(str::to_owned);
        assert_eq!(nearest("deployment", names()).as_deref(), Some("deployments"));
        assert_eq!(nearest("prod-eu1", names()).as_deref(), Some("prod-eu-1"));
        assert_eq!(nearest("xyz", names()), None);
        assert_eq!(nearest("x", []), None);
    }
}
