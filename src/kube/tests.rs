use super::*;

fn write(path: &std::path::Path, host: &str) {
    let text = format!(
        "current-context: a\nclusters: [{{name: c, cluster: {{server: 'https://{host}'}}}}]\ncontexts: [{{name: a, context: {{cluster: c}}}}]\n"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_read_again_and_a_bad_one_is_not_used() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), "one.example");
    let settings =
        Settings { kubeconfig: Some(file.path().to_owned()), context: None, environment: Environment::default() };
    let client = Client::new(settings).await.unwrap();
    let start = Instant::now();
    let address = async |looks: u32| client.current(start + LOOK * looks).await.address;
    assert_eq!(address(1).await, "https://one.example");
    write(file.path(), "second.example");
    assert_eq!(address(1).await, "https://one.example", "the file is not checked with every request");
    assert_eq!(address(2).await, "https://second.example");
    std::fs::write(file.path(), "nonsense").unwrap();
    assert_eq!(address(4).await, "https://second.example");
    write(file.path(), "third.example");
    assert_eq!(address(6).await, "https://third.example");
    assert_eq!(client.address(), "https://third.example");
}

#[test]
fn what_may_not_stand_in_a_query_is_encoded() {
    assert_eq!(encoded("app in (a,b),x!=y"), "app%20in%20%28a%2Cb%29%2Cx%21%3Dy");
    assert_eq!(encoded("eyJ2Ijoi-._~+/="), "eyJ2Ijoi-._~%2B%2F%3D");
    assert_eq!(encoded("é"), "%C3%A9");
}
