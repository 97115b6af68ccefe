//! A label selector in kubectl's syntax: `app=web,tier!=cache,track in (a,b),!canary`.

use std::str::FromStr;

use serde_json::Value;

/// All requirements must match; without any, every object matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// `None`: the key alone.
    values: Option<Vec<String>>,
    /// The label exists with one of the values; or it does not.
    is_wanted: bool,
}

impl Selector {
    /// Whether every object fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn fits(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.0.iter().all(|Requirement { key, values, is_wanted }| {
            let value = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
            let has = value.is_some_and(|value| values.as_ref().is_none_or(|values| values.iter().any(|v| v == value)));
            has == *is_wanted
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        split(text)?.into_iter().map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

/// The parts between commas outside parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or_else(|| format!("{text:?} has a `)` without a `(`"))?,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    if depth > 0 { Err(format!("{text:?} has a `(` without a `)`")) } else { Ok(parts) }
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let part = part.trim();
    let make = |key: &str, values: Option<Vec<&str>>, is_wanted| {
        let key = key.trim();
        if key.is_empty() || key.contains([' ', '(', ')', '=', '!', '<', '>']) {
            return Err(format!(
                "{part:?} is not a label selector; expected KEY=VALUE, KEY!=VALUE, KEY, !KEY, KEY in (A,B) or KEY notin (A,B)"
            ));
        }
        let values = values.map(|values| values.into_iter().map(|value| value.trim().to_owned()).collect());
        Ok(Requirement { key: key.to_owned(), values, is_wanted })
    };
    for (word, is_wanted) in [(" notin ", false), (" in ", true)] {
        if let Some((key, list)) = part.split_once(word)
            && let Some(list) = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'))
        {
            return make(key, Some(list.split(',').collect()), is_wanted);
        }
    }
    if let Some((key, value)) = part.split_once("!=") {
        return make(key, Some(vec![value]), false);
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return make(key, Some(vec![value]), true);
    }
    match part.strip_prefix('!') {
        Some(key) => make(key, None, false),
        None => make(part, None, true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_kubectls() {
        let object = json!({ "metadata": { "labels": { "app": "web", "tier": "front" } } });
        let fits = |text: &str| text.parse::<Selector>().unwrap().fits(&object);
        for yes in [
            "app=web",
            "app==web",
            "app",
            "!canary",
            "app!=api",
            "canary!=x",
            "app in (api,web)",
            "app notin (api)",
            "app=web, tier=front",
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in ["app=api", "canary", "!app", "app!=web", "app notin (web, api)", "app in (api)", "app=web,tier=back"]
        {
            assert!(!fits(no), "{no}");
        }
        assert!(Selector::default().fits(&object) && Selector::default().fits(&json!({})));
        for bad in ["", "=web", "a b", "app in (web", "app in web)", ","] {
            bad.parse::<Selector>().unwrap_err();
        }
    }
}
