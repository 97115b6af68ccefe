//! An EC2 with a memory on a real socket: the six actions that Penstock may call, as far as it uses them. Whatever else is
//! called is a test's failure. A script sees each action before and after it is done.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::servers::{Answer, Scheme, Scripted, Seen, Servers};

pub(crate) type Tags = BTreeMap<String, String>;

#[derive(Debug, Clone)]
pub(crate) struct FakeVolume {
    pub(crate) id: String,
    pub(crate) tags: Tags,
    /// The parameters it was created with.
    pub(crate) asked: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(crate) struct FakeSnapshot {
    pub(crate) id: String,
    pub(crate) volume: String,
    pub(crate) tags: Tags,
    pub(crate) state: &'static str,
    pub(crate) message: &'static str,
    /// DescribeSnapshots that show it pending before it is complete.
    pub(crate) looks: usize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) volumes: Vec<FakeVolume>,
    pub(crate) snapshots: Vec<FakeSnapshot>,
    pub(crate) actions: Vec<String>,
    /// The parameters of the last of them.
    pub(crate) asked: BTreeMap<String, String>,
    pub(crate) looks: usize,
    created: usize,
}

/// Before an action or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// Gets the state, the action and its number; an answer takes the place of the service's.
type Script = Box<dyn FnMut(&mut State, When, &str, usize) -> Option<Answer> + Send>;

pub(crate) struct FakeEc2 {
    pub(crate) server: Scripted,
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Option<Script>>>,
}

/// EC2's error document.
pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         <RequestID>in-the-body</RequestID></Response>"
    );
    (status, body)
}

impl FakeEc2 {
    pub(crate) fn start(servers: &Servers, scheme: Scheme) -> Self {
        let (state, script) = (Arc::new(Mutex::new(State::default())), Arc::new(Mutex::new(None::<Script>)));
        let (inner, scripted) = (state.clone(), script.clone());
        let server = servers.scripted(scheme, move |request, _| {
            let parameters = parameters(request);
            let action = parameters["Action"].clone();
            let mut state = inner.lock().unwrap();
            state.actions.push(action.clone());
            state.asked.clone_from(&parameters);
            let number = state.actions.len() - 1;
            let mut script = scripted.lock().unwrap();
            let mut ask = |state: &mut State, when| script.as_mut().and_then(|s| s(state, when, &action, number));
            if let Some(answer) = ask(&mut state, When::Before) {
                return answer;
            }
            let answer = state.answer(&action, &parameters);
            ask(&mut state, When::After).unwrap_or(answer)
        });
        Self { server, state, script }
    }

    pub(crate) fn volume(&self, id: &str, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.state().volumes.push(FakeVolume { id: id.to_owned(), tags, asked: BTreeMap::new() });
    }

    pub(crate) fn script(&self, script: impl FnMut(&mut State, When, &str, usize) -> Option<Answer> + Send + 'static) {
        *self.script.lock().unwrap() = Some(Box::new(script));
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The form in a request's body.
fn parameters(request: &Seen) -> BTreeMap<String, String> {
    let pairs = request.body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// `Filter.1.Name`, `Filter.1.Value.1`, …
fn filters(parameters: &BTreeMap<String, String>) -> Vec<(String, Vec<String>)> {
    let names = (1..).map_while(|number| Some((number, parameters.get(&format!("Filter.{number}.Name"))?.clone())));
    let values = |number: usize| {
        (1..).map_while(move |value| parameters.get(&format!("Filter.{number}.Value.{value}")).cloned()).collect()
    };
    names.map(|(number, name)| (name, values(number))).collect()
}

fn tags(parameters: &BTreeMap<String, String>) -> Tags {
    let tag = |number: usize| {
        let field = |field: &str| parameters.get(&format!("TagSpecification.1.Tag.{number}.{field}")).cloned();
        Some((field("Key")?, field("Value")?))
    };
    (1..).map_while(tag).collect()
}

fn fits(id: &str, tags: &Tags, filters: &[(String, Vec<String>)]) -> bool {
    filters.iter().all(|(name, values)| match name.as_str() {
        "volume-id" | "snapshot-id" => {
            assert!(values.len() <= 200, "EC2 takes 200 values of a filter");
            values.iter().any(|value| value == id)
        }
        "attachment.instance-id" => tags.get("attached").is_some_and(|attached| values.contains(attached)),
        tag => tag.strip_prefix("tag:").and_then(|tag| tags.get(tag)).is_some_and(|have| values.contains(have)),
    })
}

fn tag_set(tags: &Tags) -> String {
    tags.iter().fold(String::new(), |mut out, (key, value)| {
        let _ = write!(out, "<item><key>{key}</key><value>{value}</value></item>");
        out
    })
}

fn volume_fields(volume: &FakeVolume) -> String {
    let asked = |key: &str, otherwise: &str| volume.asked.get(key).cloned().unwrap_or_else(|| otherwise.to_owned());
    format!(
        "<volumeId>{}</volumeId><size>{}</size><availabilityZone>{}</availabilityZone><volumeType>{}</volumeType>\
         <iops>{}</iops><throughput>{}</throughput><encrypted>false</encrypted><status>available</status>\
         <tagSet>{}</tagSet>",
        volume.id,
        asked("Size", "10"),
        asked("AvailabilityZone", "eu-west-1a"),
        asked("VolumeType", "gp3"),
        asked("Iops", "4000"),
        asked("Throughput", "200"),
        tag_set(&volume.tags)
    )
}

fn snapshot_fields(snapshot: &FakeSnapshot) -> String {
    format!(
        "<snapshotId>{}</snapshotId><volumeId>{}</volumeId><status>{}</status><statusMessage>{}</statusMessage>\
         <startTime>2026-11-24T20:00:00.000Z</startTime><progress>42%</progress><encrypted>false</encrypted>\
         <tagSet>{}</tagSet>",
        snapshot.id,
        snapshot.volume,
        snapshot.state,
        snapshot.message,
        tag_set(&snapshot.tags)
    )
}

impl State {
    fn id(&mut self, prefix: &str) -> String {
        self.created += 1;
        format!("{prefix}-{:017x}", self.created)
    }

    fn answer(&mut self, action: &str, parameters: &BTreeMap<String, String>) -> Answer {
        let filters = filters(parameters);
        let body = match action {
            "DescribeVolumes" => {
                if let Some(id) = parameters.get("VolumeId.1").filter(|id| !self.volumes.iter().any(|v| v.id == **id)) {
                    return refusal(400, "InvalidVolume.NotFound", &format!("The volume '{id}' does not exist."));
                }
                let asked = |volume: &&FakeVolume| parameters.get("VolumeId.1").is_none_or(|id| *id == volume.id);
                let found = self.volumes.iter().filter(asked).filter(|volume| fits(&volume.id, &volume.tags, &filters));
                let items = found.fold(String::new(), |mut out, volume| {
                    let _ = write!(out, "<item>{}</item>", volume_fields(volume));
                    out
                });
                format!("<volumeSet>{items}</volumeSet>")
            }
            "DescribeSnapshots" => {
                assert_eq!(parameters["Owner.1"], "self");
                let mut items = String::new();
                for snapshot in &mut self.snapshots {
                    if fits(&snapshot.id, &snapshot.tags, &filters) {
                        if snapshot.state == "pending" && snapshot.looks == 0 {
                            snapshot.state = "completed";
                        }
                        snapshot.looks = snapshot.looks.saturating_sub(1);
                        let _ = write!(items, "<item>{}</item>", snapshot_fields(snapshot));
                    }
                }
                format!("<snapshotSet>{items}</snapshotSet>")
            }
            "CreateSnapshot" => {
                let (id, volume) = (self.id("snap"), parameters["VolumeId"].clone());
                let (tags, looks) = (tags(parameters), self.looks);
                let snapshot = FakeSnapshot { id, volume, tags, state: "pending", message: "", looks };
                self.snapshots.push(snapshot.clone());
                snapshot_fields(&snapshot)
            }
            "DeleteSnapshot" => {
                self.snapshots.retain(|snapshot| snapshot.id != parameters["SnapshotId"]);
                "<return>true</return>".to_owned()
            }
            "CreateVolume" => {
                let same = |volume: &&FakeVolume| volume.asked.get("ClientToken") == parameters.get("ClientToken");
                let known = self.volumes.iter().find(same).cloned();
                let volume = known.unwrap_or_else(|| {
                    let volume = FakeVolume { id: self.id("vol"), tags: tags(parameters), asked: parameters.clone() };
                    self.volumes.push(volume.clone());
                    volume
                });
                volume_fields(&volume)
            }
            other => panic!("{other} is not among the actions that the role has"),
        };
        (200, format!("<{action}Response><requestId>r</requestId>{body}</{action}Response>"))
    }
}
