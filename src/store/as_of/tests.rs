use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::store::memory::MemoryStore;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

async fn body(store: &dyn Store, key: &ObjectKey) -> Option<Vec<u8>> {
    let download = store.get(key, None).await.ok()?;
    Some(download.body.try_collect::<Vec<_>>().await.unwrap().concat())
}

async fn shown(store: &dyn Store) -> BTreeMap<ObjectKey, u64> {
    let (mut all, mut from) = (BTreeMap::new(), None);
    loop {
        let page = store.list("k/", from.as_deref()).await.unwrap();
        for object in page.objects {
            assert_eq!(all.insert(object.key, object.size), None, "listed once");
        }
        from = page.next;
        if from.is_none() {
            return all;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any writes and deletions, with pages of any size, each moment shows what the bucket held then.
    #[test]
    fn the_past_is_what_was_there(
        steps in prop::collection::vec((0_u8..5, prop::option::weighted(0.6, 1_usize..50)), 1..40),
        page in 1_usize..8,
        looked in 0_usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            let memory = Arc::new(MemoryStore::with_limits(1, page));
            memory.keep_versions();
            // One key is the beginning of another.
            let key = |number: u8| ObjectKey::new(format!("k/{}", "x".repeat(usize::from(number) + 1)));
            let mut model = BTreeMap::new();
            let mut then = BTreeMap::new();
            for (second, (number, size)) in steps.iter().enumerate() {
                memory.set_now(at(i64::try_from(second).unwrap()));
                if let Some(size) = size {
                    let payload = Payload::new(vec![u8::try_from(second).unwrap(); *size], memory.algorithm());
                    memory.put(&key(*number), payload, Overwrite::Allow).await.unwrap();
                    model.insert(key(*number), (*size as u64, second));
                } else {
                    memory.delete(&key(*number)).await.unwrap();
                    model.remove(&key(*number));
                }
                if second <= looked {
                    then.clone_from(&model);
                }
            }
            let past = AsOf::new(memory, Moment::At(at(i64::try_from(looked).unwrap())));
            let sizes: BTreeMap<_, _> = then.iter().map(|(key, (size, _))| (key.clone(), *size)).collect();
            assert_eq!(shown(&past).await, sizes);
            for number in 0..5 {
                let expected = then.get(&key(number)).map(|(size, second)| {
                    vec![u8::try_from(*second).unwrap(); usize::try_from(*size).unwrap()]
                });
                assert_eq!(body(&past, &key(number)).await, expected);
            }
        });
    }
}

#[tokio::test]
async fn a_recorded_version_is_read_whatever_was_put_over_it() {
    let memory = Arc::new(MemoryStore::new());
    memory.keep_versions();
    let key = ObjectKey::new("k/data");
    let put =
        |text: &'static str| memory.put_locked(&key, Payload::new(text, memory.algorithm()), Overwrite::Allow, None);
    memory.set_now(at(0));
    let good = put("good").await.unwrap().unwrap();
    memory.set_now(at(1));
    put("spoilt").await.unwrap();
    let past = AsOf::new(memory.clone(), Moment::At(at(5)));
    assert_eq!(body(&past, &key).await.unwrap(), b"spoilt");
    past.recorded(&key, &good);
    assert_eq!(body(&past, &key).await.unwrap(), b"good");
    assert_eq!(past.head(&key).await.unwrap().size, 4);
    // A copy of the bucket has other versions.
    past.recorded(&key, &VersionId::new("of-another-bucket").unwrap());
    assert_eq!(body(&past, &key).await.unwrap(), b"spoilt");
}

/// Records that do not fit are not replaced by what the time shows.
#[tokio::test]
async fn what_is_not_remembered_is_an_error() {
    let memory = Arc::new(MemoryStore::new());
    memory.keep_versions();
    let keys = ["k/1", "k/2", "k/3", "k/manifest.json"].map(ObjectKey::new);
    let mut past = AsOf::new(memory.clone(), Moment::BelowMarkers);
    past.most = 2;
    for key in &keys {
        let payload = Payload::new("good", memory.algorithm());
        let version = memory.put_locked(key, payload, Overwrite::Allow, None).await.unwrap().unwrap();
        memory.put(key, Payload::new("spoilt", memory.algorithm()), Overwrite::Allow).await.unwrap();
        if !key.as_str().ends_with("json") {
            past.recorded(key, &version);
        }
    }
    let [one, two, three, manifest] = &keys;
    assert_eq!(
        (body(&past, one).await.unwrap(), body(&past, two).await.unwrap()),
        (b"good".to_vec(), b"good".to_vec())
    );
    for refused in [past.get(three, None).await.err().unwrap(), past.head(three).await.unwrap_err()] {
        assert_eq!(refused.class, Class::Local, "{refused}");
    }
    assert_eq!(body(&past, manifest).await.unwrap(), b"spoilt");
}

#[tokio::test]
async fn below_its_markers_every_object_is_shown_and_nothing_can_be_changed() {
    let memory = Arc::new(MemoryStore::new());
    memory.keep_versions();
    let key = ObjectKey::new("k/data");
    memory.put(&key, Payload::new("text", memory.algorithm()), Overwrite::Allow).await.unwrap();
    memory.delete(&key).await.unwrap();
    memory.delete(&key).await.unwrap();
    assert!(memory.head(&key).await.is_err());
    let past = AsOf::new(memory.clone(), Moment::BelowMarkers);
    assert_eq!(shown(&past).await.len(), 1);
    assert_eq!(body(&past, &key).await.unwrap(), b"text");
    let refused = past.put(&key, Payload::new("new", memory.algorithm()), Overwrite::Allow).await.unwrap_err();
    assert_eq!(refused.class, Class::Config);
    assert!(past.delete(&key).await.is_err());
    let version = past.find(&key).await.unwrap();
    assert!(past.delete_version(&key, &version).await.is_err());
    let before = AsOf::new(memory, Moment::At(Timestamp::now() - SignedDuration::from_hours(1)));
    assert_eq!(before.get(&key, None).await.err().unwrap().class, Class::NotFound);
}

#[test]
fn positions_are_read_as_written() {
    for (key, inner) in [(None, "v\nk/a"), (Some("k/12:3"), "v\nk"), (Some("k/é\n"), "")] {
        let key = key.map(ObjectKey::new);
        assert_eq!(parse(&position(key.as_ref(), inner)), Some((key, inner)));
    }
    assert_eq!(parse("nonsense"), None);
    assert_eq!(parse("9:short"), None);
}
