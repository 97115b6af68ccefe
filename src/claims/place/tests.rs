use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::testing::bound;
use super::*;
use crate::claims::plugins::in_tree;

/// A host with these paths; every folder above one is there too.
#[derive(Default)]
struct Fake(BTreeMap<PathBuf, Result<Seen, io::ErrorKind>>);

impl Fake {
    fn with(mut self, path: &str, seen: Seen) -> Self {
        self.0.insert(path.into(), Ok(seen));
        self
    }

    fn mount(self, path: &str) -> Self {
        self.with(path, Seen::Folder { is_mount: Some(true) })
    }

    fn folder(self, path: &str) -> Self {
        self.with(path, Seen::Folder { is_mount: Some(false) })
    }
}

impl Look for Fake {
    fn look(&self, path: &Path) -> io::Result<Seen> {
        match self.0.get(path) {
            Some(Ok(seen)) => Ok(seen.clone()),
            Some(Err(kind)) => Err((*kind).into()),
            None if self.0.keys().any(|known| known.starts_with(path)) => Ok(Seen::Folder { is_mount: Some(false) }),
            None => Ok(Seen::Missing),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let below = self.0.keys().filter_map(|path| path.strip_prefix(folder).ok()?.iter().next().map(OsString::from));
        let mut names: Vec<OsString> = below.collect();
        names.dedup();
        Ok(names)
    }
}

const VOLUMES: &str = "/k/pods/uid-1/volumes";
const DEVICES: &str = "/k/pods/uid-1/volumeDevices";

fn resolve(backing: Backing, form: Form, host: &Fake) -> Result<String, String> {
    let (_, volume) = bound("shop/data", "ReadWriteOnce", backing);
    let place = Place::of_volume("uid-1", &volume, form, &["/opt/local".into()]).map_err(|fault| fault.to_string())?;
    assert_eq!(place.form(), form);
    match place.resolve(Path::new("/k"), host) {
        Ok(path) => Ok(path.display().to_string()),
        Err(fault) => Err(fault.to_string()),
    }
}

fn tree(field: &str) -> Backing {
    Backing::InTree(*in_tree(field).unwrap())
}

#[test]
fn each_kind_of_volume_is_found_where_the_kubelet_mounts_it() {
    for (backing, place) in [
        (Backing::Csi, "kubernetes.io~csi/pv-data/mount"),
        (Backing::Local, "kubernetes.io~local-volume/pv-data"),
        (tree("nfs"), "kubernetes.io~nfs/pv-data"),
        (tree("awsElasticBlockStore"), "kubernetes.io~aws-ebs/pv-data"),
        (tree("awsElasticBlockStore"), "kubernetes.io~csi/pv-data/mount"),
        (Backing::Flex("vendor/driver".into()), "vendor~driver/pv-data"),
        (Backing::Unknown, "example.com~hologram/pv-data"),
    ] {
        let path = format!("{VOLUMES}/{place}");
        let other = format!("{VOLUMES}/kubernetes.io~csi/pv-other/mount");
        let host =
            Fake::default().mount(&path).mount(&other).mount("/k/pods/uid-2/volumes/kubernetes.io~csi/pv-data/mount");
        assert_eq!(resolve(backing, Form::Folder, &host), Ok(path));
    }
    let own = |origin: Origin, place: &str| {
        let path = format!("{VOLUMES}/{place}");
        let place = Place::of_pod("uid-1", "cache", &origin).unwrap();
        assert_eq!(place.resolve(Path::new("/k"), &Fake::default().mount(&path)).unwrap(), Path::new(&path));
    };
    own(Origin::EmptyDir { in_memory: false }, "kubernetes.io~empty-dir/cache");
    own(Origin::InlineCsi, "kubernetes.io~csi/cache/mount");
    own(Origin::Inline("kubernetes.io/nfs".into()), "kubernetes.io~nfs/cache");
    own(Origin::Inline("kubernetes.io/azure-file".into()), "kubernetes.io~csi/cache/mount");
    own(Origin::Inline("v/d".into()), "v~d/cache");
    assert!(Place::of_pod("uid-1", "cache", &Origin::Secret).is_err());
}

#[test]
fn what_was_looked_for_is_said_where_not_exactly_one_is_there() {
    let ebs = || tree("awsElasticBlockStore");
    let nothing =
        resolve(ebs(), Form::Folder, &Fake::default().folder(&format!("{VOLUMES}/kubernetes.io~csi/pv-x/mount")));
    assert_eq!(
        nothing.unwrap_err(),
        format!(
            "looked for {VOLUMES}/kubernetes.io~csi/pv-data/mount or {VOLUMES}/kubernetes.io~aws-ebs/pv-data, and found nothing"
        )
    );
    let (csi, plain) =
        (format!("{VOLUMES}/kubernetes.io~csi/pv-data/mount"), format!("{VOLUMES}/kubernetes.io~aws-ebs/pv-data"));
    let both = resolve(ebs(), Form::Folder, &Fake::default().mount(&csi).folder(&plain));
    assert_eq!(both.unwrap_err(), format!("expected the volume in one place, and found {plain}, {csi}"));
    let elsewhere = resolve(Backing::Local, Form::Folder, &Fake::default().mount(&csi));
    assert_eq!(
        elsewhere.unwrap_err(),
        format!("looked for {VOLUMES}/kubernetes.io~local-volume/pv-data, and found {csi}")
    );
    let unknown = resolve(Backing::Unknown, Form::Folder, &Fake::default());
    assert_eq!(unknown.unwrap_err(), format!("looked for {VOLUMES}/*/pv-data, and found nothing"));
}

#[test]
fn a_folder_that_should_be_a_mount_and_is_none_is_refused() {
    let csi = format!("{VOLUMES}/kubernetes.io~csi/pv-data/mount");
    let fault = resolve(Backing::Csi, Form::Folder, &Fake::default().folder(&csi)).unwrap_err();
    assert_eq!(fault, format!("{csi} is not a mount: it is what lies below the volume"));
    let unknown = Fake::default().with(&csi, Seen::Folder { is_mount: None });
    assert_eq!(resolve(Backing::Csi, Form::Folder, &unknown), Ok(csi.clone()), "an old kernel does not tell");
    let link = Fake::default().with(&csi, Seen::Link("/etc".into()));
    assert_eq!(
        resolve(Backing::Csi, Form::Folder, &link).unwrap_err(),
        format!("{csi} is a symbolic link; expected a folder")
    );
    let mut dead = Fake::default();
    dead.0.insert(csi.clone().into(), Err(io::ErrorKind::StaleNetworkFileHandle));
    assert_eq!(
        resolve(Backing::Csi, Form::Folder, &dead).unwrap_err(),
        format!("could not look at {csi}: stale network file handle")
    );
    let empty = |in_memory| {
        let place = Place::of_pod("uid-1", "cache", &Origin::EmptyDir { in_memory }).unwrap();
        place
            .resolve(Path::new("/k"), &Fake::default().folder(&format!("{VOLUMES}/kubernetes.io~empty-dir/cache")))
            .is_ok()
    };
    assert!(empty(false) && !empty(true));
}

#[test]
fn a_block_device_is_found_behind_its_link_and_nowhere_else() {
    let link = format!("{DEVICES}/kubernetes.io~csi/pv-data");
    let leading = |target: &str| Fake::default().with(&link, Seen::Link(target.into()));
    let published = "/k/plugins/kubernetes.io/csi/volumeDevices/publish/pv-data/uid-1";
    for target in ["/dev/nvme1n1", published] {
        let host = leading(target).with(target, Seen::Device);
        assert_eq!(resolve(Backing::Csi, Form::Device, &host), Ok(target.to_owned()));
    }
    assert_eq!(resolve(Backing::Csi, Form::Device, &Fake::default().with(&link, Seen::Device)), Ok(link.clone()));
    for target in ["/etc/shadow", "/dev/../etc/shadow", "dev/sda", "/devices/sda", "/k/plugins-x/a"] {
        let fault = resolve(Backing::Csi, Form::Device, &leading(target).with(target, Seen::Device)).unwrap_err();
        assert!(fault.contains("leads to"), "{target}: {fault}");
    }
    let gone = resolve(Backing::Csi, Form::Device, &leading("/dev/nvme1n1")).unwrap_err();
    assert_eq!(gone, "looked for /dev/nvme1n1, and found nothing");
    let file = resolve(Backing::Csi, Form::Device, &leading("/dev/x").with("/dev/x", Seen::Other)).unwrap_err();
    assert!(file.contains("expected a block device"), "{file}");
}

#[test]
fn a_folder_of_the_host_is_saved_only_below_those_that_are_allowed() {
    let host = Fake::default().folder("/opt/local/pvc-1/data");
    let at = |path: &str, host: &Fake| resolve(Backing::HostPath(path.into()), Form::Folder, host);
    assert_eq!(at("/opt/local/pvc-1/data", &host), Ok("/opt/local/pvc-1/data".into()));
    for path in ["/opt/local", "/opt/local/", "/opt/local-2/a", "/etc", "/", "", "opt/local/a", "/opt/local/../../etc"]
    {
        let fault = at(path, &host).unwrap_err();
        assert!(fault.contains("is below none of host_paths"), "{path}: {fault}");
    }
    let link = Fake::default().with("/opt/local/pvc-1", Seen::Link("/etc".into())).folder("/opt/local/pvc-1/data");
    assert!(at("/opt/local/pvc-1/data", &link).unwrap_err().contains("/opt/local/pvc-1 is a symbolic link"));
    assert!(at("/opt/local/pvc-2", &host).unwrap_err().contains("found nothing"));
}

#[test]
fn hostile_names_become_no_path() {
    let long = "x".repeat(300);
    for wrong in ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "a\nb", "A_b", "-a", long.as_str()] {
        let (_, mut volume) = bound("shop/data", "ReadWriteOnce", Backing::Csi);
        wrong.clone_into(&mut volume.metadata.name);
        let fault = Place::of_volume("uid-1", &volume, Form::Folder, &[]).unwrap_err();
        assert!(matches!(fault, Fault::Name { what: "persistent volume", .. }) && fault.to_string().len() < 400);
        assert!(Place::of_pod("uid-1", wrong, &Origin::InlineCsi).is_err(), "{wrong}");
    }
    let (_, volume) = bound("shop/data", "ReadWriteOnce", Backing::Csi);
    for uid in ["", "..", "a/b", "../../etc", "a.b", &long] {
        let fault = Place::of_volume(uid, &volume, Form::Folder, &[]).unwrap_err();
        assert!(matches!(fault, Fault::Name { what: "pod's UID", .. }), "{uid}");
    }
    for driver in ["", "..", "../x", "a/b/c", "a/..", "/a", "a/", "a~/../b", &long] {
        let (_, volume) = bound("shop/data", "ReadWriteOnce", Backing::Flex(driver.into()));
        assert!(Place::of_volume("uid-1", &volume, Form::Folder, &[]).is_err(), "{driver}");
    }
}

proptest! {
    /// Whatever names an object has, what is looked at lies below the kubelet's folder of that pod.
    #[test]
    fn nothing_outside_of_the_pods_folder_is_looked_at(uid in ".{0,40}", name in ".{0,40}", driver in ".{0,20}") {
        let (_, mut volume) = bound("shop/data", "ReadWriteOnce", Backing::Flex(driver));
        volume.metadata.name = name;
        if let Ok(place) = Place::of_volume(&uid, &volume, Form::Folder, &[]) {
            let Err(Fault::Nothing { looked_for, .. }) = place.resolve(Path::new("/k"), &Fake::default()) else {
                return Err(TestCaseError::fail("an empty host has no volume"));
            };
            let pod = Path::new("/k/pods").join(&uid).join("volumes");
            for path in looked_for {
                prop_assert!(path.starts_with(&pod));
                prop_assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))));
            }
        }
    }
}
