//! The names of claims: as people write them (`shop/data`), and as their chains have them (`claim.shop.data`).
//!
//! A chain's name is a component of keys and has at most [`MAX_NAME`] bytes, while a claim's may have 253. So a chain's name that would be
//! longer is cut, and ends in `_` and 128 bits of the SHA-256 of the whole. No name of Kubernetes holds a `_`, so that no name that was cut
//! is another one's whole name. The namespace is never cut: whoever may name claims in one namespace cannot reach another one's chain,
//! even with a collision of SHA-256.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::key::{MAX_NAME, Name};

/// The longest namespace: a label of DNS (RFC 1123).
const MAX_LABEL: usize = 63;

/// The longest name of a pod, claim or volume: a subdomain of DNS.
const MAX_SUBDOMAIN: usize = 253;

const CLAIM: &str = "claim";
const POD: &str = "pod";

/// Stands before the digest in a name that was cut.
const CUT: char = '_';

/// Hex digits of the digest.
const DIGITS: usize = 32;

/// Why a text names no claim. The text is the end of a sentence that begins with what it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    #[error("is {0:?}; expected NAMESPACE/CLAIM")]
    NoSlash(String),
    #[error(
        "has the namespace {0:?}; expected 1 to {MAX_LABEL} characters of [a-z0-9-], beginning and ending with a letter or digit"
    )]
    Namespace(String),
    #[error(
        "has the name {0:?}; expected 1 to {MAX_SUBDOMAIN} characters of [a-z0-9.-], each part between dots beginning and ending with a letter or digit"
    )]
    Name(String),
}

/// A claim, by its names: `shop/data`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimName {
    namespace: String,
    name: String,
}

impl ClaimName {
    /// # Errors
    /// When Kubernetes has no such names.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameFault> {
        if !is_label(namespace) {
            return Err(NameFault::Namespace(shown(namespace)));
        }
        if !is_subdomain(name) {
            return Err(NameFault::Name(shown(name)));
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last component but one of its backups' keys, in the place of a node's name.
    #[must_use]
    pub fn chain(&self) -> Name {
        fitted(CLAIM, &self.namespace, &self.name)
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.namespace, self.name))
    }
}

/// `--claim shop/data`.
impl FromStr for ClaimName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameFault::NoSlash(shown(text)))?;
        Self::new(namespace, name)
    }
}

/// The chain of a pod's volume that no claim stands for: `pod.NAMESPACE.POD.VOLUME`. Neither a namespace nor a volume's name holds a dot.
///
/// # Errors
/// When Kubernetes has no such names.
pub fn chain_of_pod(namespace: &str, pod: &str, volume: &str) -> Result<Name, NameFault> {
    if !is_label(namespace) {
        return Err(NameFault::Namespace(shown(namespace)));
    }
    match [(is_subdomain(pod), pod), (is_label(volume), volume)].into_iter().find(|(fits, _)| !fits) {
        Some((_, wrong)) => Err(NameFault::Name(shown(wrong))),
        None => Ok(fitted(POD, namespace, &format!("{pod}.{volume}"))),
    }
}

/// What a chain's name says of what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chained {
    Claim(ClaimName),
    /// Of a claim or a pod's volume whose name was cut; the whole is in the manifest.
    Cut {
        namespace: String,
        begins: String,
    },
    /// A pod's volume without a claim.
    PodVolume {
        namespace: String,
        pod: String,
        volume: String,
    },
}

impl Chained {
    /// `None` for the chain of a node.
    #[must_use]
    pub fn of(chain: &Name) -> Option<Self> {
        let (kind, rest) = chain.as_str().split_once('.')?;
        let (namespace, name) = rest.split_once('.')?;
        if !is_label(namespace) || !matches!(kind, CLAIM | POD) {
            return None;
        }
        if let Some((begins, digits)) = name.rsplit_once(CUT) {
            let is_digest = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let is_whole = chain.as_str().len() == MAX_NAME;
            let cut = Self::Cut { namespace: namespace.to_owned(), begins: begins.to_owned() };
            return (is_digest && is_whole).then_some(cut);
        }
        if kind == CLAIM {
            return ClaimName::new(namespace, name).ok().map(Self::Claim);
        }
        let (pod, volume) = name.rsplit_once('.')?;
        chain_of_pod(namespace, pod, volume).ok()?;
        Some(Self::PodVolume { namespace: namespace.to_owned(), pod: pod.to_owned(), volume: volume.to_owned() })
    }
}

impl fmt::Display for Chained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::Claim(claim) => claim.to_string(),
            Self::Cut { namespace, begins } => format!("{namespace}/{begins}…"),
            Self::PodVolume { namespace, pod, volume } => format!("{namespace}/{pod}:{volume}"),
        })
    }
}

/// `KIND.NAMESPACE.NAME`, cut where it is too long.
fn fitted(kind: &str, namespace: &str, name: &str) -> Name {
    let whole = format!("{kind}.{namespace}.{name}");
    if whole.len() <= MAX_NAME {
        return Name::new(whole).expect("a word, and names of Kubernetes with dots between them");
    }
    let digest = hex::encode(Sha256::digest(whole.as_bytes()));
    let begin = &whole[..MAX_NAME - DIGITS - CUT.len_utf8()];
    Name::new(format!("{begin}{CUT}{}", &digest[..DIGITS])).expect("a name's begin, an underscore, and digits")
}

/// A label of DNS, as namespaces and pods' volumes have it.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let fits = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let end = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL && bytes.iter().all(fits) && end(bytes.first()) && end(bytes.last())
}

/// A subdomain of DNS, as claims, pods and persistent volumes have it. Its labels have no limit of their own in Kubernetes.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        !label.is_empty() && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(label)
}

/// As much of a text that somebody sent as a message repeats.
#[must_use]
pub fn shown(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claim_is_written_as_namespace_slash_name() {
        let claim: ClaimName = "shop/data-db-0".parse().unwrap();
        assert_eq!((claim.namespace(), claim.name()), ("shop", "data-db-0"));
        assert_eq!((claim.to_string(), format!("{claim:<16}|")), ("shop/data-db-0".into(), "shop/data-db-0  |".into()));
        assert_eq!(claim.chain().as_str(), "claim.shop.data-db-0");
        for (text, why) in [
            ("data", "is \"data\"; expected NAMESPACE/CLAIM"),
            ("/data", "has the namespace \"\""),
            ("shop/", "has the name \"\""),
            ("shop/a/b", "has the name \"a/b\""),
            ("a.b/data", "has the namespace \"a.b\""),
            ("shop/..", "has the name \"..\""),
            ("shop/Data", "has the name \"Data\""),
            ("shop/-data", "has the name \"-data\""),
            ("shop/data_1", "has the name \"data_1\""),
        ] {
            let fault = text.parse::<ClaimName>().unwrap_err().to_string();
            assert!(fault.starts_with(why), "{text}: {fault}");
        }
        let long = format!("shop/{}", "x".repeat(254)).parse::<ClaimName>().unwrap_err().to_string();
        assert!(long.contains("x…\"; expected") && long.len() < 300, "{long}");
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_behind_its_namespace() {
        let namespace = "n".repeat(63);
        let most = ClaimName::new("shop", &"c".repeat(MAX_NAME - "claim.shop.".len())).unwrap().chain();
        assert_eq!(most.as_str().len(), MAX_NAME);
        assert!(!most.as_str().contains('_'));
        let [one, other] = ["a", "b"].map(|end| ClaimName::new(&namespace, &format!("{}{end}", "c".repeat(252))));
        let (one, other) = (one.unwrap().chain(), other.unwrap().chain());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), MAX_NAME);
        assert!(one.as_str().starts_with(&format!("claim.{namespace}.ccccc")), "{one}");
        assert_eq!(Chained::of(&one).unwrap().to_string(), format!("{namespace}/{}…", "c".repeat(25)));
    }

    #[test]
    fn chains_of_nodes_are_not_those_of_claims() {
        for node in
            ["n1", "cluster", "ip-10-0-0-1.eu-west-1.compute.internal", "claim", "claim.a", "claim.a.b_c", "pod.a.b"]
        {
            assert_eq!(Chained::of(&Name::new(node).unwrap()), None, "{node}");
        }
        let chain = chain_of_pod("shop", "web-0.x", "cache").unwrap();
        assert_eq!(chain.as_str(), "pod.shop.web-0.x.cache");
        let volume = Chained::PodVolume { namespace: "shop".into(), pod: "web-0.x".into(), volume: "cache".into() };
        assert_eq!(volume.to_string(), "shop/web-0.x:cache");
        assert_eq!(Chained::of(&chain), Some(volume));
        assert!(chain_of_pod("shop", "web", "a.b").is_err() && chain_of_pod("shop", "../x", "a").is_err());
    }

    const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
    const SUBDOMAIN: &str = "[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?){0,4}";

    proptest! {
        #[test]
        fn every_claim_has_a_chain_and_one_that_was_not_cut_says_whose(namespace in LABEL, name in SUBDOMAIN) {
            let claim = ClaimName::new(&namespace, &name).unwrap();
            let chain = claim.chain();
            match Chained::of(&chain).unwrap() {
                Chained::Claim(found) => prop_assert_eq!(found, claim),
                Chained::Cut { namespace, begins } => {
                    prop_assert_eq!(namespace.as_str(), claim.namespace());
                    prop_assert!(claim.name().starts_with(&begins));
                }
                other @ Chained::PodVolume { .. } => prop_assert!(false, "{other:?}"),
            }
        }

        /// Names that differ in one place, at any length.
        #[test]
        fn two_claims_never_have_one_chain(
            a in ("[ab-]{1,60}", "[ab.-]{1,250}"),
            b in ("[ab-]{1,60}", "[ab.-]{1,250}"),
            at in any::<prop::sample::Index>(),
            c in prop::sample::select(vec!['a', 'b', '.', '-']),
        ) {
            let near = (a.0.clone(), {
                let mut name: Vec<char> = a.1.chars().collect();
                let at = at.index(name.len());
                name[at] = c;
                name.into_iter().collect()
            });
            let joined = format!("{}.{}", a.0, a.1);
            let (left, right) = joined.split_at(at.index(joined.len()));
            let moved = (left.to_owned(), right.trim_start_matches('.').to_owned());
            let claims = [a, b, near, moved].map(|(namespace, name)| ClaimName::new(&namespace, &name));
            let claims: Vec<ClaimName> = claims.into_iter().flatten().collect();
            for one in &claims {
                for other in &claims {
                    prop_assert_eq!(one == other, one.chain() == other.chain(), "{} {}", one, other);
                }
            }
        }

        #[test]
        fn a_pods_volume_never_has_a_claims_chain(pod in SUBDOMAIN, volume in "[a-z0-9]{1,20}", name in SUBDOMAIN) {
            let of_pod = chain_of_pod("shop", &pod, &volume).unwrap();
            prop_assert_ne!(&of_pod, &ClaimName::new("shop", &name).unwrap().chain());
            prop_assert!(Chained::of(&of_pod).is_some());
        }
    }
}
