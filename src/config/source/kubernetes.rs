//! `type = "kubernetes"`: the API objects of a cluster.

use super::{Kind, SourceKind};
use crate::config::forms;
use crate::config::reader::Section;
use crate::config::shapes::{default_text, default_words, list, string};
use crate::config::values::shown;

/// The longest selector: it is part of a URL.
const MAX_SELECTOR: usize = 1024;

pub(super) const KIND: Kind = Kind {
    word: "kubernetes",
    keys: || {
        let glob = string("A name or a glob; `*` also matches dots.");
        vec![
            list("namespaces", "the namespaces that are saved; all if absent.", &glob),
            list("exclude_namespaces", "those of them that are not saved.", &glob),
            list("resources", "the kinds that are saved, as in deployments.apps; all if absent.", &glob),
            list(
                "exclude_resources",
                "those of them that are not saved; if absent, kinds that no restore can use.",
                &glob,
            ),
            default_words(
                "cluster_resources",
                "cluster-scoped objects; auto saves those to which saved objects refer.",
                &["auto", "always", "never"],
            ),
            default_text("selector", "a label selector; empty: everything.", ""),
            default_words("versions", "the saved versions of a kind that is served in several.", &["preferred", "all"]),
        ]
    },
    read: |section, _| Some(SourceKind::Kubernetes(objects(section))),
};

/// Which objects of the cluster are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// Globs.
    pub namespaces: Vec<String>,
    pub exclude_namespaces: Vec<String>,
    /// Globs over `deployments.apps`, or over `deployments`.
    pub resources: Vec<String>,
    /// `None`: what no restore can use.
    pub exclude_resources: Option<Vec<String>>,
    pub cluster_resources: ClusterResources,
    /// A label selector of Kubernetes; empty: everything.
    pub selector: String,
    pub versions: Versions,
}

/// Whether cluster-scoped objects are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClusterResources {
    Always,
    /// All of them where every namespace is saved, else those that the chosen namespaces' objects refer to.
    #[default]
    Auto,
    Never,
}

/// Which versions of a kind are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// The one that the server prefers.
    #[default]
    Preferred,
    /// Every one that is served.
    All,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            namespaces: vec!["*".to_owned()],
            exclude_namespaces: Vec::new(),
            resources: vec!["*".to_owned()],
            exclude_resources: None,
            cluster_resources: ClusterResources::default(),
            selector: String::new(),
            versions: Versions::default(),
        }
    }
}

impl Objects {
    /// The settings that are not at their defaults, for display: `namespaces shop, team-*; cluster_resources never`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = Vec::new();
        let mut add = |key: &str, values: &[String]| {
            if !values.is_empty() && values != ["*"] {
                words.push(format!("{key} {}", values.join(", ")));
            }
        };
        add("namespaces", &self.namespaces);
        add("exclude_namespaces", &self.exclude_namespaces);
        add("resources", &self.resources);
        add("exclude_resources", self.exclude_resources.as_deref().unwrap_or_default());
        match self.cluster_resources {
            ClusterResources::Auto => {}
            ClusterResources::Always => words.push("cluster_resources always".to_owned()),
            ClusterResources::Never => words.push("cluster_resources never".to_owned()),
        }
        if !self.selector.is_empty() {
            words.push(format!("selector {}", self.selector));
        }
        if self.versions == Versions::All {
            words.push("all versions".to_owned());
        }
        if words.is_empty() { "every namespace and kind".to_owned() } else { words.join("; ") }
    }
}

fn objects(section: &Section) -> Objects {
    let globs = |key: &'static str, form: fn(&str) -> Result<(), String>| {
        let globs = section.list(key, |text| {
            form(text)?;
            forms::name_glob(text)
        });
        section.has(key).then_some(globs)
    };
    // An empty list would save nothing, in every backup.
    let needed = |key: &'static str, form| {
        let given = globs(key, form);
        if given.as_ref().is_some_and(Vec::is_empty) && !section.is_faulty(key) {
            section
                .fault(key, "is empty, so that nothing would be saved; remove it for everything, or name what to save");
        }
        given.unwrap_or_else(|| vec!["*".to_owned()])
    };
    Objects {
        namespaces: needed("namespaces", namespace),
        exclude_namespaces: globs("exclude_namespaces", namespace).unwrap_or_default(),
        resources: needed("resources", resource),
        exclude_resources: globs("exclude_resources", resource),
        cluster_resources: section
            .choice(
                "cluster_resources",
                &[
                    ("auto", ClusterResources::Auto),
                    ("always", ClusterResources::Always),
                    ("never", ClusterResources::Never),
                ],
            )
            .unwrap_or_default(),
        selector: section.parsed("selector", selector).unwrap_or_default(),
        versions: section
            .choice("versions", &[("preferred", Versions::Preferred), ("all", Versions::All)])
            .unwrap_or_default(),
    }
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

/// A namespace's name is a DNS label (RFC 1123).
pub(super) fn namespace(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |text: &str| !text.starts_with('-') && !text.ends_with('-');
    if is_glob(text) || ((1..=63).contains(&text.len()) && text.chars().all(fits) && ends(text)) {
        return Ok(());
    }
    Err(format!("is {}; expected a namespace's name, or a glob: up to 63 of [a-z0-9-]", shown(text)))
}

/// `deployments.apps`. Objects have the kind as `Deployment`, and users copy that.
fn resource(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if is_glob(text) || (!text.is_empty() && text.chars().all(fits)) {
        return Ok(());
    }
    let expected = "expected a plural name in lower case, its group behind a dot, or a glob";
    let plural = text.split_once('/').map_or(text, |(_, kind)| kind).to_lowercase();
    Err(format!("is {}; {expected}; did you mean \"{plural}s\"? `kubectl api-resources` lists the names", shown(text)))
}

/// A selector that the server cannot parse fails every list, so it is refused here.
fn selector(text: &str) -> Result<String, String> {
    if text.len() > MAX_SELECTOR {
        return Err(format!("is {} characters long; expected at most {MAX_SELECTOR}", text.len()));
    }
    // Commas within parentheses are part of a set.
    let (mut depth, mut start, mut requirements) = (0_i32, 0, Vec::new());
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                requirements.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    requirements.push(&text[start..]);
    match requirements.into_iter().find(|requirement| !is_requirement(requirement.trim())) {
        None => Ok(text.to_owned()),
        Some(wrong) => Err(format!(
            "is {}, in which {} is not a requirement; expected a label selector such as \"app=shop,tier!=cache,team in (a,b),!legacy\"",
            shown(text),
            shown(wrong.trim())
        )),
    }
}

fn is_requirement(text: &str) -> bool {
    let word = |text: &str| text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let key = |text: &str| {
        let (prefix, name) = text.rsplit_once('/').unwrap_or(("p", text));
        !name.is_empty()
            && word(name)
            && !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
    };
    if let Some(negated) = text.strip_prefix('!') {
        return key(negated.trim());
    }
    for operator in ["!=", "==", "="] {
        if let Some((left, right)) = text.split_once(operator) {
            return key(left.trim()) && word(right.trim());
        }
    }
    if let Some((left, right)) = text.split_once(['<', '>']) {
        return key(left.trim()) && right.trim().parse::<i64>().is_ok();
    }
    let Some((left, set)) = text.split_once('(') else { return key(text) };
    let (Some(set), Some((name, operator))) =
        (set.trim_end().strip_suffix(')'), left.trim().split_once(char::is_whitespace))
    else {
        return false;
    };
    matches!(operator.trim(), "in" | "notin") && key(name) && set.split(',').all(|value| word(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_the_server_are_taken_and_others_are_not() {
        for good in
            ["a=b", "a==b", "a != b", "example.com/x=1.2_3", "a in (b, c),!d", "a notin (b)", "a", "a>1,b", "a="]
        {
            assert_eq!(selector(good).as_deref(), Ok(good));
        }
        for bad in ["=b", "a=b,", "a b", "a in b", "a in (b", "a=b c", "!", "a>x", "a&b=c", "x/=1"] {
            let message = selector(bad).unwrap_err();
            assert!(message.contains("is not a requirement; expected a label selector"), "{bad}: {message}");
        }
    }

    #[test]
    fn only_what_is_not_the_default_is_in_the_words() {
        assert_eq!(Objects::default().in_words(), "every namespace and kind");
        let objects = Objects {
            namespaces: vec!["shop".to_owned(), "team-*".to_owned()],
            cluster_resources: ClusterResources::Never,
            selector: "a=b".to_owned(),
            ..Objects::default()
        };
        assert_eq!(objects.in_words(), "namespaces shop, team-*; cluster_resources never; selector a=b");
    }
}
