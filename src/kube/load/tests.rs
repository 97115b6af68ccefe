use super::*;

const CA: &str = "certificate-authority-data: bm90IHBlbQ==";

fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: prod-eu\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n\
         contexts:\n- {{name: prod-eu, context: {{cluster: c, user: u}}}}\n- {{name: prod-us, context: {{cluster: c, user: u}}}}\n\
         - {{name: lost, context: {{cluster: gone, user: u}}}}\n- {{name: nobody, context: {{cluster: c, user: gone}}}}\n"
    )
}

const GOOD: &str = "server: 'https://api.example:6443'";

fn with(text: &str, context: Option<&str>) -> Result<Loaded, (String, Report)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, text).unwrap();
    let settings = Settings {
        kubeconfig: Some(file.clone()),
        context: context.map(str::to_owned),
        environment: Environment::default(),
    };
    load(&settings).map_err(|error| (error.to_string().replace(&file.display().to_string(), "FILE"), error.report()))
}

fn refused(text: &str, context: Option<&str>) -> (String, String) {
    let Err((error, report)) = with(text, context) else { panic!("{text} was accepted") };
    assert_eq!(report.class, Class::Config);
    (error, report.remedy.unwrap_or_default())
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_told_with_what_was_expected() {
    let good = kubeconfig(GOOD, "token: t");
    assert_eq!(
        refused(&good, Some("prod-eu1")),
        (
            "the kubeconfig FILE has no context \"prod-eu1\"; it has prod-eu, prod-us, lost, nobody".to_owned(),
            "did you mean \"prod-eu\"?".to_owned()
        )
    );
    assert!(
        refused(&good, Some("lost")).0.ends_with("its context lost names the cluster \"gone\", which is not in it")
    );
    assert!(refused(&good, Some("nobody")).0.ends_with("its context nobody names the user \"gone\", who is not in it"));
    assert!(refused("", None).0.ends_with("it has no current-context"));
    assert!(refused("current-context: a", None).0.ends_with("has no context \"a\"; it has none"));
    let server = refused(&kubeconfig("server: 'api.example'", ""), None);
    assert!(server.0.ends_with("the server of its cluster \"c\" is \"api.example\""), "{}", server.0);
    assert!(server.1.contains("https://"));
    let ca = refused(&kubeconfig(&format!("{GOOD}, {CA}"), ""), None);
    assert!(ca.0.ends_with("its certificate-authority-data contains no PEM certificate"), "{}", ca.0);
    let ca = refused(&kubeconfig(&format!("{GOOD}, certificate-authority-data: '%%'"), ""), None);
    assert!(ca.0.ends_with("is not base64"), "{}", ca.0);
}

#[test]
fn what_is_no_yaml_is_told_by_its_place_and_never_quoted() {
    let (error, remedy) = refused("users:\n- name: u\n  user: {token: hunter2, token: [hunter3\n", None);
    assert!(error.starts_with("the kubeconfig FILE: it is not a kubeconfig from line "), "{error}");
    assert!(!error.contains("hunter") && remedy.contains("kubectl config view"), "{error} {remedy}");
}

#[test]
fn files_that_are_missing() {
    let settings = |kubeconfig: Option<&str>, environment| Settings {
        kubeconfig: kubeconfig.map(PathBuf::from),
        context: None,
        environment,
    };
    let error = load(&settings(Some("/nonexistent/config"), Environment::default())).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/config: No such file"), "{error}");
    assert_eq!(load(&settings(None, Environment::default())).err().unwrap(), LoadError::Nowhere);
    let error = with(&kubeconfig(&format!("{GOOD}, certificate-authority: no-such.pem"), ""), None).err().unwrap();
    assert!(error.0.contains("no-such.pem: No such file"), "{}", error.0);
    assert_eq!(error.1.class, Class::Tls);
}

#[test]
fn where_a_cluster_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, host: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, kubeconfig(&format!("server: 'https://{host}'"), "")).unwrap();
        path
    };
    let (home, named) = (write(".kube/config", "home.example"), write("named", "named.example"));
    let environment = Environment { home: Some(folder.path().to_owned()), ..Environment::default() };
    let host = |settings: &Settings| load(settings).ok().unwrap().config.cluster_url.host().unwrap().to_owned();
    let settings = Settings { kubeconfig: None, context: None, environment };
    assert_eq!(host(&settings), "home.example");
    let mut listed = settings.clone();
    listed.environment.kubeconfig = Some(format!("{}::{}", named.display(), home.display()));
    assert_eq!(host(&listed), "named.example", "the first file wins");
    // A pod has no kubeconfig; a service without an account gives no rights.
    let mut pod = listed.clone();
    pod.environment.service = Some(("10.0.0.1".into(), "443".into()));
    pod.environment.service_account = folder.path().join("account");
    assert_eq!(host(&pod), "named.example");
    std::fs::create_dir(folder.path().join("account")).unwrap();
    std::fs::write(folder.path().join("account/token"), "t").unwrap();
    assert!(matches!(load(&pod), Err(LoadError::File { .. })), "its CA is missing");
    pod.context = Some("prod-eu".into());
    assert_eq!(host(&pod), "named.example", "a context selects within a kubeconfig");
}

#[test]
fn every_file_that_was_read_is_watched() {
    let loaded = with(&kubeconfig(GOOD, "tokenFile: /run/token, client-key: /run/key"), None).ok().unwrap();
    let names: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    assert!(names[0].ends_with("/config"));
    assert_eq!(names[1..], ["/run/key", "/run/token"]);
}

#[test]
fn settings_come_from_the_configuration_and_the_environment() {
    let variables = [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBECONFIG", ""),
        ("HOME", "/home/x"),
        ("https_proxy", "proxy:3128"),
    ];
    let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let configured = config::Kubernetes { kubeconfig: Some("/k".into()), context: Some("c".into()) };
    let Settings { kubeconfig, context, environment } = Settings::new(&configured, lookup).unwrap();
    assert_eq!((kubeconfig, context.as_deref()), (Some(PathBuf::from("/k")), Some("c")));
    assert_eq!(environment.service, Some(("10.0.0.1".into(), "443".into())));
    assert_eq!((environment.kubeconfig, environment.home), (None, Some("/home/x".into())));
    assert!(environment.proxy.is_some() && environment.service_account.ends_with("serviceaccount"));
    let bad = |name: &str| (name == "HTTPS_PROXY").then(|| "socks5://user:secret@h".to_owned());
    let error = Settings::new(&configured, bad).unwrap_err();
    assert!(matches!(error, LoadError::Proxy(_)) && !error.to_string().contains("secret"), "{error}");
}
