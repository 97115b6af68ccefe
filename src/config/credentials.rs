//! Who Penstock is at a location: base credentials, and the roles it assumes from there.

use std::time::Duration;

use super::forms;
use super::interpolate::interpolate;
use super::model::{Credentials, Hop, SecretSource};
use super::reader::Section;

/// STS API Reference, AssumeRole, DurationSeconds.
const MIN_SESSION: Duration = Duration::from_mins(15);
const MAX_SESSION: Duration = Duration::from_hours(12);
const DEFAULT_SESSION: Duration = Duration::from_hours(1);
/// IAM User Guide, "Methods to assume a role": role chaining limits a session to one hour.
const MAX_CHAINED_SESSION: Duration = Duration::from_hours(1);

/// Where the file names none. Cut and cleaned after the variable is filled in: a node's name may be longer than a session's.
const DEFAULT_SESSION_NAME: &str = "penstock-${NODE_NAME:-host}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Default,
    Static,
    Profile,
    WebIdentity,
}

/// `[….credentials]`. `None` where it has a fault that leaves nothing to build.
pub(super) fn read(section: &Section) -> Option<Credentials> {
    let sources = [
        ("default", Base::Default),
        ("static", Base::Static),
        ("profile", Base::Profile),
        ("web-identity", Base::WebIdentity),
    ];
    let base = section.choice("source", &sources);
    // With a faulty source nobody can say which of the keys belong.
    let known = (!section.is_faulty("source")).then(|| base.unwrap_or(Base::Default));
    let no_check = |_: &str| Ok(());
    let access_key_id = section.secret("access_key_id", "access_key_id_file", no_check);
    let secret_access_key = section.secret("secret_access_key", "secret_access_key_file", no_check);
    let session_token = section.secret("session_token", "session_token_file", no_check);
    let profile = section.text("profile");
    let token_file = section.path("token_file");
    let role_arn = section.parsed("role_arn", forms::role_arn);
    for (keys, owner, which) in [
        (&STATIC_KEYS[..], Base::Static, "source = \"static\""),
        (&["profile"][..], Base::Profile, "source = \"profile\""),
        (&["token_file", "role_arn"][..], Base::WebIdentity, "source = \"web-identity\""),
    ] {
        let applies = known.is_none_or(|base| base == owner);
        for key in keys {
            section.only_with(key, applies, which);
        }
    }
    match known? {
        Base::Default => Some(Credentials::Default),
        Base::Static => {
            let hint = "a static key has two halves: set it, or its _file";
            let id = required_secret(section, "access_key_id", "access_key_id_file", access_key_id, hint);
            let key = required_secret(section, "secret_access_key", "secret_access_key_file", secret_access_key, hint);
            Some(Credentials::Static { access_key_id: id?, secret_access_key: key?, session_token })
        }
        Base::Profile => {
            let profile = section.required("profile", profile, "name a profile of the AWS configuration file");
            Some(Credentials::Profile { profile: profile? })
        }
        Base::WebIdentity => {
            let token_file = section.required("token_file", token_file, "name the file that holds the token");
            let role_arn = section.required("role_arn", role_arn, "name the role that the token is for");
            Some(Credentials::WebIdentity { token_file: token_file?, role_arn: role_arn? })
        }
    }
}

const STATIC_KEYS: [&str; 6] = [
    "access_key_id",
    "access_key_id_file",
    "secret_access_key",
    "secret_access_key_file",
    "session_token",
    "session_token_file",
];

fn required_secret(
    section: &Section,
    key: &'static str,
    file_key: &'static str,
    secret: Option<SecretSource>,
    hint: &str,
) -> Option<SecretSource> {
    if section.is_faulty(file_key) { secret } else { section.required(key, secret, hint) }
}

/// `[[….assume_role]]`, in the order of the file.
pub(super) fn read_chain(location: &Section, base: Option<&Credentials>) -> Vec<Hop> {
    // A web identity is a role's session already, so the first hop from there is chained too.
    let mut chained = matches!(base, Some(Credentials::WebIdentity { .. }));
    let hops = location.tables("assume_role", |section| {
        let longest = if chained { MAX_CHAINED_SESSION } else { MAX_SESSION };
        chained = true;
        read_hop(section, longest)
    });
    // Where one is missing there is a fault, and nobody sees the chain.
    hops.into_iter().flatten().collect()
}

fn read_hop(section: &Section, longest: Duration) -> Option<Hop> {
    let role_arn = section.parsed("role_arn", forms::role_arn);
    let role_arn = section.required("role_arn", role_arn, "name the role to assume");
    let external_id = section.secret("external_id", "external_id_file", forms::external_id);
    let duration = section.duration("duration").unwrap_or(DEFAULT_SESSION);
    let session_name = section.parsed("session_name", forms::session_name);
    if !(MIN_SESSION..=longest).contains(&duration) {
        let why = if longest == MAX_CHAINED_SESSION {
            "15m to 1h: a session got with another role's session lasts one hour at most"
        } else {
            "15m to 12h"
        };
        let came = humantime::format_duration(duration);
        section.fault("duration", format!("is {came}; expected {why}"));
    }
    Some(Hop {
        external_id,
        duration,
        session_name: session_name.unwrap_or_else(|| default_session_name(section)),
        role_arn: role_arn?,
    })
}

fn default_session_name(section: &Section) -> String {
    let text = interpolate(DEFAULT_SESSION_NAME, section.environment()).unwrap_or_else(|_| "penstock".into());
    let clean = |c: char| if forms::in_session_name(c) { c } else { '-' };
    text.chars().map(clean).take(forms::MAX_SESSION_NAME).collect()
}
