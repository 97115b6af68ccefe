//! The way to a server: credentials, certificates and proxies.

use penstock::cluster::Cluster as _;
use penstock::error::{Class, Classify as _};
use penstock::kube::{Client, Environment, Settings};
use serde_json::json;

use super::{client, settings};
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, kubeconfig};
use crate::servers::{Scheme, Servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_replaced_in_its_file_is_taken_up() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let (token, path) = (servers.folder().join("token"), servers.folder().join("kubeconfig"));
    std::fs::write(&token, ADMIN).unwrap();
    std::fs::write(&path, kubeconfig(&fake.url, &fake.ca, "{tokenFile: token}")).unwrap();
    let client = client(&path).await;
    client.version().await.unwrap();
    fake.state().admin_token = "the-next-token".to_owned();
    std::fs::write(&token, "the-next-token").unwrap();
    let refused = client.version().await.unwrap_err();
    assert_eq!(refused.error.class, Class::CredentialsExpired, "one 401, and then the file is read again");
    client.version().await.unwrap();
    // Credentials that were just read and are not accepted: no use in trying again.
    fake.state().admin_token = "another".to_owned();
    assert_eq!(client.version().await.unwrap_err().error.class, Class::CredentialsExpired);
    let refused = client.version().await.unwrap_err();
    assert_eq!(refused.error.class, Class::AccessDenied);
    assert!(refused.report().remedy.unwrap().contains("kubeconfig"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_plugin_and_of_a_pod() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let credential = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": { "token": ADMIN } });
    let plugin = |command: &str| {
        let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "/bin/sh", "args": ["-c", command] });
        let path = servers.folder().join("plugin.kubeconfig");
        std::fs::write(&path, kubeconfig(&fake.url, &fake.ca, &json!({ "exec": exec }).to_string())).unwrap();
        path
    };
    client(&plugin(&format!("echo '{credential}'"))).await.version().await.unwrap();
    let failed = Client::new(settings(&plugin("echo secret-token; echo no session >&2; exit 3"))).await.unwrap_err();
    assert_eq!(failed.class(), Class::CredentialsUnavailable);
    assert!(failed.to_string().ends_with("(exit status: 3): no session"), "{failed}");
    assert!(!format!("{failed:?}").contains("secret-token"));

    let account = servers.folder().join("account");
    std::fs::create_dir(&account).unwrap();
    std::fs::copy(&fake.ca, account.join("ca.crt")).unwrap();
    std::fs::write(account.join("token"), ADMIN).unwrap();
    let (host, port) = fake.url.strip_prefix("https://").unwrap().split_once(':').unwrap();
    let service = Some((host.to_owned(), port.to_owned()));
    let environment = Environment { service, service_account: account, ..Environment::default() };
    let in_pod = Client::new(Settings { kubeconfig: None, context: None, environment }).await.unwrap();
    in_pod.version().await.unwrap();
    assert!(in_pod.trust().contains("ca.crt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_or_not_there() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let (_, other) = crate::servers::authority("another CA");
    let ca = servers.folder().join("other.pem");
    std::fs::write(&ca, other).unwrap();
    let path = servers.folder().join("kubeconfig");
    std::fs::write(&path, kubeconfig(&fake.url, &ca, "{token: x}")).unwrap();
    let untrusted = client(&path).await;
    let error = untrusted.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Tls);
    assert!(error.remedy.unwrap().contains(&format!("the CA bundle {}", ca.display())));
    // The right CA comes into the file; a handshake is made with it as soon as the file is looked at.
    std::fs::copy(&fake.ca, &ca).unwrap();
    assert_eq!(client(&path).await.version().await.unwrap_err().error.class, Class::CredentialsExpired);

    std::fs::write(&path, kubeconfig(&servers.refusing().replace("http:", "https:"), &fake.ca, "{token: x}")).unwrap();
    let error = client(&path).await.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Transient);
    assert!(error.remedy.unwrap().contains("nothing listens there"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_of_the_environment_is_used_unless_no_proxy_says_otherwise() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let asked = servers.scripted(Scheme::Http, |_, _| (407, String::new()));
    let through = |no_proxy: &'static str| {
        let url = asked.url.clone();
        Environment::read(move |name| match name {
            "HTTPS_PROXY" => Some(url.clone()),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        })
        .unwrap()
    };
    let path = servers.folder().join("kubeconfig");
    let client = async |url: &str, no_proxy| {
        std::fs::write(&path, kubeconfig(url, &fake.ca, &format!("{{token: {ADMIN}}}"))).unwrap();
        Client::new(Settings { kubeconfig: Some(path.clone()), context: None, environment: through(no_proxy) })
            .await
            .unwrap()
    };
    let error = client("https://api.invalid:6443", "").await.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(error.remedy.unwrap().contains("HTTPS_PROXY"));
    assert_eq!(asked.seen()[0].method, "CONNECT");
    // This host is never behind it.
    client(&fake.url, "").await.version().await.unwrap();
    let direct = client("https://api.invalid:6443", ".invalid").await.version().await.unwrap_err().error;
    assert_eq!(direct.class, Class::Transient, "{direct}");
    assert_eq!(asked.seen().len(), 1);
}
