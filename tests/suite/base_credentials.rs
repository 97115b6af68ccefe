//! Where base credentials come from, each on the wire shape that it really has: the real binary, started as it would be there.

use std::fs;
use std::path::PathBuf;

use crate::aws_client::{LATER, ROLE_A, field, session};
use crate::binary::Penstock;
use crate::servers::{
    ACCESS_KEY, S3Server, SECRET_KEY, SESSION_ACCESS_KEY, SESSION_SECRET_KEY, Scheme, Scripted, Servers,
};

struct Site {
    servers: Servers,
    s3: S3Server,
    /// Answers AssumeRoleWithWebIdentity and AssumeRole.
    sts: Scripted,
}

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Https);
        let sts = servers.scripted(Scheme::Https, |request, _| {
            let (status, body) = session();
            match field(request, "Action").as_deref() {
                Some("AssumeRoleWithWebIdentity") => {
                    (status, body.replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe"))
                }
                _ => (status, body),
            }
        });
        Self { servers, s3, sts }
    }

    fn penstock(&self, credentials: &str) -> Penstock {
        let config = format!(
            "cluster = \"c\"\nnode = \"n\"\nstate_dir = \"{state}\"\n[locations.primary]\nprovider = \"aws\"\nbucket = \"{bucket}\"\n\
             region = \"us-east-1\"\ns3_url = \"{s3}\"\nsts_url = \"{sts}\"\nforce_path_style = true\ncertificate = \"{ca}\"\n\
             certificate_mode = \"only\"\n[locations.primary.credentials]\n{credentials}\n",
            state = self.servers.folder().join("state").display(),
            bucket = self.s3.bucket,
            s3 = self.s3.url,
            sts = self.sts.url,
            ca = self.servers.ca_path().display(),
        );
        Penstock::new(self.servers.folder(), &config)
    }

    fn default(&self) -> Penstock {
        self.penstock("source = \"default\"")
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.servers.folder().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The bucket was reached with that key and, for a session, its token.
    fn reached_as(&self, key: &str, token: Option<&str>) {
        let seen = self.s3.seen();
        let last = seen.last().expect("S3 was asked");
        assert!(last.header("authorization").unwrap().contains(key), "{last:?}");
        assert_eq!(last.header("x-amz-security-token"), token);
    }
}

fn of_a_session() -> String {
    serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": LATER,
        "AccessKeyId": SESSION_ACCESS_KEY, "SecretAccessKey": SESSION_SECRET_KEY, "Token": "the-node-token",
    })
    .to_string()
}

#[test]
fn the_environment() {
    let site = Site::new();
    let penstock = site.default().with("AWS_ACCESS_KEY_ID", ACCESS_KEY).with("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    penstock.good(&["list"]);
    site.reached_as(ACCESS_KEY, None);
}

#[test]
fn an_instance_role_by_imdsv2() {
    let site = Site::new();
    let imds = site.servers.metadata_of_role("NodeRole", of_a_session());
    let penstock =
        site.default().without("AWS_EC2_METADATA_DISABLED").with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url);
    penstock.good(&["list"]);
    site.reached_as(SESSION_ACCESS_KEY, Some("the-node-token"));
    let asked: Vec<_> = imds.seen().iter().map(|request| format!("{} {}", request.method, request.uri)).collect();
    assert_eq!(asked[0], "PUT /latest/api/token", "{asked:?}");
    assert_eq!(asked.last().unwrap(), "GET /latest/meta-data/iam/security-credentials/NodeRole");
}

#[test]
fn eks_pod_identity() {
    let site = Site::new();
    let agent = site.servers.scripted(Scheme::Http, |request, _| match request.header("authorization") {
        Some("the.pod.token") => (200, of_a_session()),
        _ => (401, String::new()),
    });
    let token = site.file("pod-token", "the.pod.token");
    let penstock = site
        .default()
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", agent.url))
        .with("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string());
    penstock.good(&["list"]);
    site.reached_as(SESSION_ACCESS_KEY, Some("the-node-token"));
    // The token is rotated on disk: it is read again.
    fs::write(&token, "another.token").unwrap();
    let (code, failed) = penstock.json(&["list"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (75, Some("credentials-unavailable")), "{failed}");
}

#[test]
fn irsa() {
    let site = Site::new();
    let token = site.file("irsa-token", "the.projected.jwt\n");
    let penstock = site
        .default()
        .with("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string())
        .with("AWS_ROLE_ARN", ROLE_A)
        .with("AWS_ROLE_SESSION_NAME", "the-pod");
    penstock.good(&["list"]);
    let seen = site.sts.seen();
    assert_eq!(field(&seen[0], "Action").as_deref(), Some("AssumeRoleWithWebIdentity"));
    assert_eq!(field(&seen[0], "WebIdentityToken").as_deref(), Some("the.projected.jwt"));
    assert_eq!(field(&seen[0], "RoleSessionName").as_deref(), Some("the-pod"));
    site.reached_as(SESSION_ACCESS_KEY, Some(&format!("token-of-{SESSION_ACCESS_KEY}")));
}

#[test]
fn a_profile_with_keys_and_one_that_runs_a_program() {
    let site = Site::new();
    let keys = format!("[backup]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    let (keys, none) = (site.file("credentials", &keys), site.file("none", ""));
    let penstock = site
        .penstock("source = \"profile\"\nprofile = \"backup\"")
        .with("AWS_SHARED_CREDENTIALS_FILE", keys.display().to_string())
        .with("AWS_CONFIG_FILE", none.display().to_string());
    penstock.good(&["list"]);
    site.reached_as(ACCESS_KEY, None);

    let answer = serde_json::json!({
        "Version": 1, "AccessKeyId": SESSION_ACCESS_KEY, "SecretAccessKey": SESSION_SECRET_KEY, "SessionToken": "from-a-program",
        "Expiration": LATER,
    });
    let answer = site.file("answer.json", &answer.to_string());
    let config = site.file("config", &format!("[profile backup]\ncredential_process = cat {}\n", answer.display()));
    let program = penstock
        .clone()
        .with("AWS_SHARED_CREDENTIALS_FILE", none.display().to_string())
        .with("AWS_CONFIG_FILE", config.display().to_string());
    program.good(&["list"]);
    site.reached_as(SESSION_ACCESS_KEY, Some("from-a-program"));

    let nobody = program.with("AWS_CONFIG_FILE", none.display().to_string());
    let (code, failed) = nobody.json(&["list"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (75, Some("credentials-unavailable")), "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("backup"), "{failed}");
}

#[test]
fn with_none_at_all_each_provider_says_why() {
    let site = Site::new();
    let none = site.file("none", "").display().to_string();
    let penstock = site.default().with("AWS_SHARED_CREDENTIALS_FILE", &none).with("AWS_CONFIG_FILE", &none);
    let (code, failed) = penstock.json(&["list"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (75, Some("credentials-unavailable")), "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    for provider in ["environment:", "profile:", "web identity:", "container:", "instance metadata:"] {
        assert!(message.contains(provider), "{provider} {message}");
    }
    assert_eq!(site.s3.requests(), 0);
}
