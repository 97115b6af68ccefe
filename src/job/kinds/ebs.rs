//! `ebs`: each volume that the source selects is an item, a snapshot.

use crate::config::{Ebs, OnNoMatch};
use crate::disks::Disks;
use crate::format::ebs::VolumeId;
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::job::plan::{Capture, Plan, Planned};
use crate::job::unlisted::Unlisted;
use crate::snapshot::{Error, Selection, select};

pub(super) async fn resolve<'a>(source: &Name, ebs: &'a Ebs, disks: &dyn Disks, plan: &mut Plan<'a>) {
    let described = |by: &str| SourceDescription::Ebs { selected_by: by.to_owned() };
    let Selection { volumes, missing, unusable, reason } = match select(disks, ebs).await {
        Ok(selection) => selection,
        Err(error) => {
            plan.unlisted.push(unlisted(source.clone()));
            return plan.fail(source.clone(), described("the job's configuration"), Error::from(error));
        }
    };
    if volumes.is_empty() && missing.is_empty() && unusable.is_empty() {
        let error = Error::Nothing { source_name: source.clone(), selection: format!("is {reason}") };
        match ebs.on_no_match {
            OnNoMatch::Error => plan.fail(source.clone(), described(&reason), error),
            OnNoMatch::Warn => plan.warnings.push((source.clone(), error.to_string())),
            OnNoMatch::Ignore => {}
        }
        return;
    }
    tracing::info!(%source, volumes = volumes.len(), "volumes {reason}");
    for volume in missing {
        plan.fail(item_name(source, &volume), described(&reason), Error::NoVolume(volume));
    }
    // What an earlier source has is there already.
    for (volume, state) in unusable {
        if plan.volumes.insert(volume.clone()) {
            plan.fail(item_name(source, &volume), described(&reason), Error::Unusable { volume, state });
        }
    }
    for volume in volumes {
        if plan.volumes.insert(volume.id.clone()) {
            let (name, description) = (item_name(source, &volume.id), described(&reason));
            plan.snapshots.push(Planned { name, description, step: Capture { ebs, volume } });
        }
    }
}

fn item_name(source: &Name, volume: &VolumeId) -> Name {
    Name::new(format!("{source}-{volume}")).expect("the configuration leaves room for a volume's ID")
}

/// Items of `source` may be among the volumes of the account.
pub(in crate::job) fn unlisted(source: Name) -> Unlisted {
    let of = source.clone();
    Unlisted::new(source, "the volumes of its source could not be asked for".to_owned(), move |item| {
        let volume = item.name.as_str().strip_prefix(of.as_str()).and_then(|rest| rest.strip_prefix('-'));
        matches!(item.source, SourceDescription::Ebs { .. })
            && volume.is_some_and(|volume| volume.parse::<VolumeId>().is_ok())
    })
}
