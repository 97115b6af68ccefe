//! Checks the forms of single values: a bucket, a role ARN, a URL. Each function returns the value, or an error text that
//! follows the key. The limits are AWS's, from the page named beside them.

use globset::GlobBuilder;

use super::source::AttachedTo;
use super::values::shown;
use crate::format::ebs::VolumeId;
use crate::format::key::Name;

type Form<T = String> = Result<T, String>;

/// Longer prefixes could push a key past S3's 1024 bytes: the names below it take up to about 700.
const MAX_PREFIX: usize = 256;

pub(super) fn name(text: &str) -> Form<Name> {
    Name::new(text).map_err(|error| format!("is {}, which {error}", shown(text)))
}

/// S3 User Guide, "General purpose bucket naming rules".
pub(super) fn bucket(text: &str) -> Form {
    let label = |label: &str| {
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        end(label.chars().next()) && end(label.chars().next_back()) && label.chars().all(allowed)
    };
    let address = text.parse::<std::net::Ipv4Addr>().is_ok();
    if (3..=63).contains(&text.len()) && text.split('.').all(label) && !address && !text.starts_with("xn--") {
        return Ok(text.to_owned());
    }
    let expected =
        "3 to 63 characters of [a-z0-9.-], each part between dots beginning and ending with a letter or digit";
    Err(format!("is {}; expected a bucket's name: {expected}", shown(text)))
}

/// A region of AWS: `eu-west-1`, `us-gov-east-1`.
pub(super) fn aws_region(text: &str) -> Form {
    let (area, number) = text.rsplit_once('-').unwrap_or_default();
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    let digits = !number.is_empty() && number.len() <= 2 && number.chars().all(|c| c.is_ascii_digit());
    if digits && area.contains('-') && area.split('-').all(word) {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected a region such as \"eu-west-1\" (other stores' regions go with s3_url)", shown(text)))
}

/// The region of another store, only a part of the signature: `garage`, `auto`, `us-east-1`.
pub(super) fn any_region(text: &str) -> Form {
    if text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected a region: up to 64 characters of [A-Za-z0-9_-]", shown(text)))
}

/// `http` or `https`, a host and maybe a port. The result has no final slash.
pub(super) fn url(text: &str) -> Form {
    let expected = "expected http:// or https://, a host and maybe a port, such as \"https://s3.example.com:9000\"";
    if text.contains('@') {
        // Does not repeat the value: the text before an @ may be a password.
        return Err(format!("holds an @; {expected}; credentials go under [….credentials]"));
    }
    let wrong = |why: &str| Err(format!("is {}, which {why}; {expected}", shown(text)));
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return wrong("has no http:// or https:// in front");
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return wrong("has a path or a query");
    }
    let (host, port) = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => (&authority[..colon], Some(&authority[colon + 1..])),
        _ => (authority, None),
    };
    if port.is_some_and(|port| {
        port.starts_with('+') || port.parse::<u16>().is_ok_and(|n| n == 0) || port.parse::<u16>().is_err()
    }) {
        return wrong("has a bad port");
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let good = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label),
    };
    if good { Ok(text.strip_suffix('/').unwrap_or(text).to_owned()) } else { wrong("has no proper host") }
}

/// IAM User Guide, "IAM identifiers": `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`.
pub(super) fn role_arn(text: &str) -> Form {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let good = match parts[..] {
        ["arn", partition, "iam", "", account, resource] => {
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let role = resource.strip_prefix("role/").unwrap_or_default();
            let name = role.rsplit('/').next().unwrap_or_default();
            (!partition.is_empty() && partition.chars().all(word))
                && (account.len() == 12 && account.chars().all(|c| c.is_ascii_digit()))
                && (1..=64).contains(&name.len())
                && role.len() <= 64 + 512
                && role.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-/".contains(c))
        }
        _ => false,
    };
    let expected = "expected a role's ARN such as \"arn:aws:iam::222222222222:role/BackupWriter\"";
    if good { Ok(text.to_owned()) } else { Err(format!("is {}; {expected}", shown(text))) }
}

/// STS API Reference, AssumeRole: 2 to 1224 of `[\w+=,.@:\/-]`. The message never repeats the value.
pub(super) fn external_id(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c);
    if !text.chars().all(allowed) {
        return Err(
            "holds a character outside [A-Za-z0-9_+=,.@:/-]; take the external ID as the role's owner gave it".into()
        );
    }
    if (2..=1224).contains(&text.len()) {
        return Ok(());
    }
    Err(format!("is {} characters long; expected 2 to 1224", text.len()))
}

/// STS API Reference, AssumeRole: 2 to 64 of `[\w+=,.@-]`.
pub(super) const MAX_SESSION_NAME: usize = 64;

pub(super) const fn in_session_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

pub(super) fn session_name(text: &str) -> Form {
    if (2..=MAX_SESSION_NAME).contains(&text.len()) && text.chars().all(in_session_name) {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected 2 to 64 characters of [A-Za-z0-9_+=,.@-]", shown(text)))
}

/// A key prefix. Empty segments, `.` and `..` are refused: HTTP clients and proxies rewrite them.
pub(super) fn prefix(text: &str) -> Form {
    let path = text.strip_suffix('/').unwrap_or(text);
    let why = if text.starts_with('/') {
        "begins with /"
    } else if text.chars().any(char::is_control) {
        "holds a control character"
    } else if text.len() > MAX_PREFIX {
        "is longer than 256 bytes"
    } else if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        "has an empty, `.` or `..` segment"
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("is {}, which {why}; expected a key prefix such as \"fleet/eu\"", shown(text)))
}

/// A KMS key: ID, alias or ARN.
pub(super) fn kms_key_id(text: &str) -> Form {
    if text.len() <= 2048 && text.chars().all(|c| c.is_ascii_alphanumeric() || ":/_-".contains(c)) {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected a KMS key's ARN, ID or alias (\"alias/backups\")", shown(text)))
}

/// Stores name their own classes, so only the alphabet is checked.
pub(super) fn storage_class(text: &str) -> Form {
    if text.len() <= 64 && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected a storage class such as \"STANDARD_IA\"", shown(text)))
}

/// S3 User Guide, "Categorizing your objects using tags"; EC2 has the same limits for a tag.
pub(super) fn tag(key: &str, value: &str) -> Result<(), String> {
    let (keys, values) = (key.chars().count(), value.chars().count());
    let allowed = |c: char| c.is_alphanumeric() || c == ' ' || "+-=._:/@".contains(c);
    if !(1..=128).contains(&keys) {
        Err(format!("has a key of {keys} characters; expected 1 to 128"))
    } else if values > 256 {
        Err(format!("has a value of {values} characters; expected at most 256"))
    } else if let Some(bad) = key.chars().chain(value.chars()).find(|c| !allowed(*c)) {
        Err(format!("holds {bad:?}; expected letters, digits, spaces and + - = . _ : / @"))
    } else if key.to_lowercase().starts_with("aws:") {
        Err("has a key that begins with aws:, which AWS keeps for itself; expected another".into())
    } else {
        Ok(())
    }
}

/// A glob for paths: `*` stays within a folder, `**` crosses them.
pub(super) fn glob(text: &str) -> Form {
    let built = GlobBuilder::new(text).literal_separator(true).build();
    match built {
        _ if text.is_empty() => Err("is empty; expected a glob such as \"**/lost+found\"".into()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is {}, which is not a glob: {}", shown(text), error.kind())),
    }
}

/// A glob over names, in which `*` passes over dots.
pub(super) fn name_glob(text: &str) -> Form {
    let built = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
    built.map(|_| text.to_owned()).map_err(|error| format!("is {}, which is not a glob: {}", shown(text), error.kind()))
}

/// A path that does not depend on where the process was started.
pub(super) fn absolute(text: &str) -> Form {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!("is {}; expected a path that begins with /", shown(text)))
}

/// A pattern for paths below a folder.
pub(super) fn below(text: &str) -> Result<&str, String> {
    if text.starts_with('/') {
        return Err(format!(
            "is {}, which matches nothing: a pattern is compared with the path below the source's folder; leave that folder out, as in \"cache/**\"",
            shown(text)
        ));
    }
    Ok(text)
}

pub(super) fn time_zone(text: &str) -> Form {
    // UTC works without the time zone database.
    if text == "UTC" || jiff::tz::TimeZone::get(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!(
        "is {}, which the time zone database does not have; expected \"UTC\" or a name such as \"Europe/Berlin\"",
        shown(text)
    ))
}

pub(super) fn volume(text: &str) -> Form<VolumeId> {
    text.parse().map_err(|_| format!("is {}; expected a volume's ID such as \"vol-0123456789abcdef0\"", shown(text)))
}

pub(super) fn attached_to(text: &str) -> Form<AttachedTo> {
    if text == "this-instance" {
        return Ok(AttachedTo::ThisInstance);
    }
    let expected = "expected \"this-instance\" or an instance's ID such as \"i-0123456789abcdef0\"";
    text.parse().map(AttachedTo::Instance).map_err(|_| format!("is {}; {expected}", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(form: impl Fn(&str) -> Form<T>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(form(text).is_ok(), "{text} is good: {}", form(text).err().unwrap_or_default());
        }
        for text in bad {
            assert!(form(text).is_err(), "{text} is bad");
        }
    }

    #[test]
    fn buckets_and_regions() {
        let long = "x".repeat(64);
        check(
            bucket,
            &["acme-cluster-backups", "a.b.c", "123", &long[..63]],
            &["ab", &long, "Acme", "a_b", "-ab", "ab-", "a..b", "a.-b", ".ab", "10.0.0.1", "xn--abc", "a b", "bücket"],
        );
        check(
            aws_region,
            &["eu-west-1", "us-gov-east-1", "eusc-de-east-1", "ap-southeast-7"],
            &["eu-west", "eu-west-", "EU-WEST-1", "west-1", "eu--1", "eu-west-123", "garage", "eu-west-1a"],
        );
        check(any_region, &["garage", "auto", "us-east-1"], &["a b", "a/b", &"x".repeat(65)]);
    }

    #[test]
    fn urls() {
        check(
            url,
            &["https://s3.example.com", "http://127.0.0.1:9000/", "http://[::1]:80", "http://[::1]", "https://a."],
            &[
                "s3.example.com",
                "ftp://a",
                "https://",
                "https://a/b",
                "https://a?b",
                "https://a#b",
                "https://a:",
                "https://a:0",
                "https://a:70000",
                "https://a:x",
                "https://a b",
                "https://[::1",
                "https://a..b",
                "https://u:p@a",
                "https://a:+1",
            ],
        );
        assert_eq!(url("http://a:1/"), Ok("http://a:1".to_owned()));
        assert!(!url("https://user:hunter2@a").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn roles_and_sessions() {
        check(
            role_arn,
            &["arn:aws:iam::222222222222:role/BackupWriter", "arn:aws-cn:iam::222222222222:role/a/b/C_+=,.@-"],
            &[
                "arn:aws:iam::222222222222:user/x",
                "arn:aws:iam::22222222222:role/x",
                "arn:aws:iam::222222222222:role/",
                "arn:aws:sts::222222222222:assumed-role/x/y",
                "arn:aws:iam:eu:222222222222:role/x",
                "BackupWriter",
                "arn:aws:iam::222222222222:role/a b",
                "arn:aws:iam::222222222222:role/a:b",
            ],
        );
        check(external_id, &["ab", "a:b/c@d,e=f+g-h_i.1", &"x".repeat(1224)], &["a", "a b", "é1", &"x".repeat(1225)]);
        check(session_name, &["ab", "penstock-n1.eu", &"x".repeat(64)], &["a", "a:b", "a/b", &"x".repeat(65)]);
    }

    #[test]
    fn prefixes_and_paths() {
        check(
            prefix,
            &["fleet", "fleet/eu/", "a..b", "Ünï code"],
            &["/a", "a//b", "..", "a/../b", "./a", "a\nb", &"x".repeat(257)],
        );
        check(absolute, &["/", "/a/*"], &["a", "./a", "~/a"]);
        check(glob, &["**/lost+found", "*.{a,b}", "[a-z]?"], &["", "[a", "{a,b", "a**["]);
        check(
            volume,
            &["vol-0123456789abcdef0", "vol-01234567"],
            &["vol-", "vol-012345678", "vol-0123456789ABCDEF0", "i-01234567"],
        );
        check(attached_to, &["this-instance", "i-0123456789abcdef0"], &["that-instance", "i-", "vol-01234567"]);
    }

    #[test]
    fn time_zones() {
        check(time_zone, &["UTC", "Europe/Berlin"], &["Europe/Berlín", "CEST-ish", "../../etc/passwd"]);
    }

    #[test]
    fn tags_and_keys() {
        check(
            |text| tag("team", text),
            &["", "platform @ a+b=c", &"x".repeat(256)],
            &["a?b", "a\nb", &"x".repeat(257)],
        );
        check(
            |text| tag(text, ""),
            &["a", "kubernetes.io/cluster/x", &"x".repeat(128)],
            &["", "aws:x", "AWS:x", &"x".repeat(129)],
        );
        check(kms_key_id, &["alias/backups", "arn:aws:kms:eu-west-1:222222222222:key/mrk-1a"], &["a b", "a\"b"]);
        check(storage_class, &["STANDARD_IA"], &["standard", "A B"]);
    }
}
