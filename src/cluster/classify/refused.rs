//! The message of a server that refuses an object, without the object's content.
//!
//! `metav1.Status` quotes invalid values, and the bytes around a place that cannot be parsed; these may be a Secret's. Only field paths
//! and the broken rules are kept.

use super::{Cause, DENIED, Status, words};

/// The most fields that a message names.
const MAX_FIELDS: usize = 5;

/// The most characters about one field.
const MAX_DETAIL: usize = 200;

/// Markers at which the parser's own text ends and the object's bytes begin.
const QUOTES: &[&str] =
    &["error found in #", "bigger context", "parsing time ", "cannot parse ", "; json parse error", " is missing in '"];

/// The message of a Status about an object that was sent.
pub(super) fn message(status: &Status) -> String {
    // The text of a webhook or a policy: nothing else says why.
    if status.message.contains(DENIED) || status.message.contains("denied request") {
        return words(&status.message);
    }
    if status.reason == "Invalid" {
        return fields(status);
    }
    let end = QUOTES.iter().filter_map(|quote| status.message.find(quote)).min();
    words(end.map_or(status.message.as_str(), |end| &status.message[..end]))
}

fn fields(status: &Status) -> String {
    let causes = &status.details.causes;
    if causes.is_empty() {
        return "the server refuses the object and names no field".to_owned();
    }
    let mut named: Vec<String> = causes.iter().take(MAX_FIELDS).map(field).collect();
    if causes.len() > MAX_FIELDS {
        named.push(format!("{} more", causes.len() - MAX_FIELDS));
    }
    words(&named.join("; "))
}

/// `spec.clusterIPs: invalid value: field is immutable`.
fn field(cause: &Cause) -> String {
    let text = cause.message.lines().next().unwrap_or_default();
    let (fault, rest) = text.split_once(": ").unwrap_or((text, ""));
    let detail = match cause.reason.as_str() {
        "FieldValueRequired" | "FieldValueForbidden" | "FieldValueTooLong" => rest,
        "FieldValueInvalid" | "FieldValueDuplicate" | "FieldValueNotSupported" | "FieldValueTypeInvalid" => {
            after_value(rest)
        }
        _ => "",
    };
    let fault = match cause.reason.as_str() {
        reason if reason.starts_with("FieldValue") => fault.to_lowercase(),
        _ => "refused".to_owned(),
    };
    let all = [cause.field.as_str(), &fault, detail].into_iter().filter(|part| !part.is_empty());
    let all = all.collect::<Vec<_>>().join(": ");
    all.chars().take(MAX_DETAIL).collect()
}

/// The text after `VALUE: `, where VALUE is a literal of Go or of JSON; empty if its end is not found.
fn after_value(text: &str) -> &str {
    let mut depth = 0_usize;
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            b':' if depth == 0 => return text[at + 1..].trim_start(),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(reason: &str, message: &str, causes: &serde_json::Value) -> String {
        let status = json!({ "kind": "Status", "reason": reason, "message": message, "details": { "causes": causes } });
        self::message(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_refusal_names_fields_and_rules_but_no_values() {
        // (reason, message, expected) of a cause about the field `f`.
        let rows = [
            (
                "FieldValueInvalid",
                r#"Invalid value: "hunter2: \"x\"": field is immutable"#,
                "f: invalid value: field is immutable",
            ),
            ("FieldValueInvalid", r#"Invalid value: "hunter2: x""#, "f: invalid value"),
            (
                "FieldValueInvalid",
                "Invalid value: 0x0: must be specified for an update",
                "f: invalid value: must be specified for an update",
            ),
            (
                "FieldValueInvalid",
                r#"Invalid value: map[string]string{"hunter2":"}: hunter2"}: `selector` does not match"#,
                "f: invalid value: `selector` does not match",
            ),
            ("FieldValueInvalid", r#"Invalid value: {"hunter2": "x"#, "f: invalid value"),
            (
                "FieldValueInvalid",
                r#"Invalid value: []string{"10.0.0.1"}: field is immutable"#,
                "f: invalid value: field is immutable",
            ),
            (
                "FieldValueNotSupported",
                r#"Unsupported value: "hunter2": supported values: "A""#,
                r#"f: unsupported value: supported values: "A""#,
            ),
            (
                "FieldValueRequired",
                "Required value: name or generateName is required",
                "f: required value: name or generateName is required",
            ),
            (
                "FieldValueForbidden",
                "Forbidden: pod updates may not change fields other than `x`\n  core.PodSpec{ hunter2",
                "f: forbidden: pod updates may not change fields other than `x`",
            ),
            (
                "FieldValueTooLong",
                "Too long: must have at most 1048576 bytes",
                "f: too long: must have at most 1048576 bytes",
            ),
            ("FieldValueNotFound", r#"Not found: "hunter2""#, "f: not found"),
            ("Other", "hunter2", "f: refused"),
        ];
        for (reason, message, expected) in rows {
            let causes = json!([{ "reason": reason, "message": message, "field": "f" }]);
            let words = refused("Invalid", &format!("Secret \"s\" is invalid: f: {message}"), &causes);
            assert_eq!(words, expected, "{message}");
        }
        assert!(!refused("Invalid", "Secret \"s\" is invalid: hunter2", &json!([])).contains("hunter2"));
        let many = json!(vec![json!({ "reason": "FieldValueRequired", "message": "Required value", "field": "f" }); 9]);
        assert!(refused("Invalid", "", &many).ends_with("f: required value; 4 more"));
    }

    #[test]
    fn what_cannot_be_read_is_not_quoted() {
        let old = r#"Secret in version "v1" cannot be handled as a Secret: v1.Secret.Data: base64Codec: illegal base64 data at input byte 4, error found in #10 byte of ...|"hunter2"|..., bigger context ...|"hunter2"|..."#;
        assert!(refused("BadRequest", old, &json!([])).ends_with("illegal base64 data at input byte 4,"));
        let hex = "the object provided is unrecognized (must be of type Secret): couldn't get version/kind; json parse error: unexpected end of JSON input (7b2268756e7465)";
        assert!(refused("BadRequest", hex, &json!([])).ends_with("couldn't get version/kind"));
        let whole = r#"Gadget in version "v1" cannot be handled as a Gadget: unmarshalerDecoder: Object 'Kind' is missing in '{"spec":"hunter2"}', error found in #10"#;
        assert!(refused("BadRequest", whole, &json!([])).ends_with("Object 'Kind'"));
    }

    #[test]
    fn a_webhook_s_own_words_are_kept() {
        let words = "admission webhook \"w.test\" denied the request: no owner label";
        assert_eq!(refused("Invalid", words, &json!([])), words);
        assert_eq!(refused("Forbidden", words, &json!([])), words);
        let policy =
            "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: failed expression";
        assert_eq!(refused("Invalid", policy, &json!([{ "message": "failed" }])), policy);
    }
}
