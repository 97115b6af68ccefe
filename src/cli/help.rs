//! Examples and exit codes, which `--help` shows below the options.

pub(in crate::cli) const TOP: &str = "\
First steps:
  penstock config example > /etc/penstock/penstock.toml     write a configuration, and
  penstock config check                                     see every fault in it
  penstock backup etcd                                      run a job now
  penstock list                                             list the backups
  penstock restore etcd@latest --to /srv/restored           restore the newest

BACKUP is an ID, JOB@latest, JOB@ID or JOB/NODE@latest. JOB@latest is this node's newest backup or, if this node has none, the newest of any node.
An ID may be shortened to its first characters, at least four, if no other backup's begins so: etcd@20261123T22.

Colours are for terminals only; NO_COLOR=1 switches them off.

Exit codes:
   0  success
   1  finished, but an item failed or was left out: see the warnings
   2  the arguments are wrong
  65  data is damaged             73  the target exists already
  66  no such backup or object    74  reading a source, or writing to this machine, failed
  69  a quota is used up          75  try again: throttled, timed out, cancelled, connection lost
  70  a bug in Penstock           77  permission: S3, KMS, AssumeRole; no private key that opens the backup
                                  78  configuration, certificates";

pub(in crate::cli) const BACKUP: &str = "\
Examples:
  penstock backup etcd volumes
  penstock backup --location primary --name home /home
  penstock backup --name dump -- pg_dump -Fc app
  mysqldump app | penstock backup --name dump -

Penstock keeps a command's output only if the command succeeds; of a pipe into `-` it sees only the bytes. An empty output is a failure
without --allow-empty.
Exit codes: 0 committed, 1 committed with warnings or without an item that failed, otherwise by the class of the failure (penstock --help).";

pub(in crate::cli) const LIST: &str = "\
Examples:
  penstock list etcd
  penstock list etcd --since 7d --limit 20
  penstock list --item pods-web                             only backups that have this item
  penstock list --cluster prod-eu-2 --node ip-10-0-0-7
  penstock list --claim shop/data                           of one claim, whichever nodes its pods were on
  penstock list --output json | jq -r '.backups[0].id'

PLAIN is what a restore writes, STORED what all chunks of the backup take in the bucket, NEW what this backup added to it: an incremental
backup shares the rest with older ones. Of more than four items their number is shown; `penstock show` names them.
Exit codes: 0, 1 where a manifest cannot be read (the others are listed), 66 no such cluster, job or node.";

pub(in crate::cli) const LS: &str = "\
Examples:
  penstock ls volumes@latest                                the root of the tree, or the items
  penstock ls volumes@latest pods/etc/nginx
  penstock ls 20261123T22 '*.conf'                          whatever matches, in any folder
  penstock ls volumes@latest etc --recursive
  penstock --output json ls volumes@latest etc | jq -r '.files[].path'

Exit codes: 0, 65 the index is damaged, 66 no such backup, or no such path in it, 77 no key opens it.";

pub(in crate::cli) const FIND: &str = "\
Examples:
  penstock find nginx.conf                                  in any folder, any backup, of any node
  penstock find 'etc/nginx/*.conf' --job volumes --since 30d
  penstock find '**/db/*.sqlite' --claim shop/data --limit 1
  penstock --output json find nginx.conf | jq -r '.versions[] | [.id, .item, .path] | @tsv'

Then `penstock restore JOB@ID --item ITEM --include PATH --to DIR` brings it back.
Exit codes: 0, also where nothing matches; 1 a backup could not be searched (damaged, or no key opens it: see the log); 66 no such
cluster, job or node.";

pub(in crate::cli) const DIFF: &str = "\
Examples:
  penstock diff etcd@20261122 etcd@latest
  penstock diff volumes/n1@latest volumes/n2@latest --item etc
  penstock --output json diff etcd@20261122 etcd@latest | jq -e '.same'     exit code 0 where nothing differs

+ is a file that only the second backup has, - one that only the first has, ~ one that both have.
Exit codes: 0 compared, whether or not they differ; 1 an item could not be compared; 65 an index is damaged; 66 no such backup; 77 no key
opens it.";

pub(in crate::cli) const SHOW: &str = "\
Examples:
  penstock show etcd@latest
  penstock show volumes/ip-10-0-0-7@latest --files
  penstock --output json show 20261123T221300Z-4f9a2c       the manifest itself";

pub(in crate::cli) const RESTORE: &str = "\
Examples:
  penstock restore volumes@latest --to /srv/restored
  penstock restore volumes@latest --to /srv/restored --identity operator.txt     an encrypted backup
  penstock restore volumes@latest --item pods --include 'etc/**' --exclude '*.log' --to /srv/restored --dry-run
  penstock restore --cluster prod-eu-1 volumes/ip-10-0-0-7@latest --to /srv/restored     on a fresh machine
  penstock restore --claim shop/data --to /srv/restored                                  the newest backup of one claim

The files of one item go into DIR itself, those of several items into DIR/ITEM.
What is damaged in the store is left out, and everything else is restored; the end lists it, with a backup that has it whole.
An entry is a file, a folder, a link, or whatever else a tree holds; any other item is one entry.
Exit codes: 0 all restored as saved, 1 a file was left out or is not as saved, 65 data is damaged, 66 no such backup,
73 DIR is not empty, or files in it block every file of the backup, 74 DIR cannot be written.";

pub(in crate::cli) const CAT: &str = "\
Examples:
  penstock cat etcd@latest > snapshot.db
  penstock cat volumes@latest --item pods | tar -t
  penstock cat --claim shop/data | tar -t

Where the reader of the pipe closes it (`| head`), `cat` ends without a message and with 141, as a program that SIGPIPE ends.";

pub(in crate::cli) const VERIFY: &str = "\
Examples:
  penstock verify                       the newest backup of each job and node: every object exists
  penstock verify etcd@latest --data    and every byte is right
  penstock verify --all
  penstock verify --claim shop/data --data

With --data, lost chunks are recorded beside the manifest, so that the next backup of the job there stores them again.
Exit codes: 0 whole, 65 damaged, 66 missing.";

pub(in crate::cli) const PRUNE: &str = "\
Examples:
  penstock prune --dry-run              what would be deleted, what stays, and why
  penstock prune --job etcd
  penstock prune --node ip-10-0-0-7     of a node that is gone, by this node's rules
  penstock prune --claim shop/data
  penstock prune --all-nodes --dry-run  of every node of the cluster, those that are gone too

--all-nodes says of each history how old its newest backup is: a node that is gone makes no more, and its last backups stay until
`penstock delete --node NODE` deletes them. It uses this node's retention for every node, and never a shorter grace period. A node
that backs up or prunes meanwhile is not disturbed.
Of a job that saves claims, the backups of every claim are pruned, whichever node made them.

Exit codes: 0 done, 1 an object could not be deleted (see the log), 65 a manifest cannot be read, 66 no such node, 77 permission.";

pub(in crate::cli) const DELETE: &str = "\
Examples:
  penstock delete 20261123T221300Z-4f9a2c
  penstock delete etcd@20261123T221300Z-4f9a2c --now    free the space at once
  penstock delete --node ip-10-0-0-7 etcd@latest        of a node that is gone
  penstock delete --claim shop/data --all               everything of a claim that is gone

A shortened ID must fit one backup of all that are looked at: those of the job, or of the whole cluster where no job is named. The result
names what was deleted in full; --dry-run what would be. It also says how to undo it: with `penstock undelete` where the bucket keeps versions,
otherwise within the grace period, and with --now not at all. On a terminal `delete` asks first; --yes answers.
Exit codes: 0 done, 1 an object could not be deleted (see the log), 2 another node's backup without --node, 66 no such backup,
75 the answer was not yes: nothing was deleted.";

pub(in crate::cli) const UNDELETE: &str = "\
Examples:
  penstock undelete 20261123T221300Z-4f9a2c
  penstock undelete etcd@latest --as-of 2026-11-23T22:00:00Z     after an attack: a time before it
  penstock list --as-of 2026-11-23T22:00:00Z                     the backups that there were then

The next prune deletes a backup again that no rule keeps: see `penstock hold`.
Exit codes: 0 the backup is back, 65 what the bucket held then is damaged: try another time, 66 there was no such backup, 77 permission.";

pub(in crate::cli) const HOLD: &str = "\
Examples:
  penstock hold 20261123T221300Z-4f9a2c
  penstock hold 20261123T221300Z-4f9a2c --release

Exit codes: 0 done, 66 no such backup, 77 permission, 78 the bucket has no Object Lock.";

pub(in crate::cli) const STATS: &str = "\
Examples:
  penstock stats
  penstock --output json stats --job etcd | jq .total.stored_bytes";

pub(in crate::cli) const COMPLETIONS: &str = "\
Example:
  penstock completions bash > /etc/bash_completion.d/penstock";

pub(in crate::cli) const MAN: &str = "\
Example:
  penstock man /usr/local/share/man/man1 && man penstock-restore";

pub(in crate::cli) const RUN: &str = "\
Example:
  penstock --log-format json run

SIGHUP, a changed file or `penstock reload` makes the daemon read the configuration again. At SIGTERM it starts no more jobs, aborts the
uploads in flight and ends within half a minute.";

pub(in crate::cli) const STATUS: &str = "\
Examples:
  penstock status
  penstock --output json status | jq '.jobs[] | {name, next_run}'

Where the configuration file has faults, this shows the daemon that its [admin] names all the same.
Exit codes: 0; 66 if no daemon listens; 75 if one listens and does not answer within ten seconds.";

pub(in crate::cli) const TRIGGER: &str = "\
Example:
  penstock trigger etcd --wait && echo saved";

pub(in crate::cli) const SWEEP: &str = "\
Examples:
  penstock sweep --dry-run
  penstock sweep
  penstock sweep --give-up

Exit codes: 0 no upload is left, or --give-up removed its record; 1 there may be an upload whose ID is not known; otherwise by the class of the first failed abort.";

pub(in crate::cli) const VALIDATE: &str = "\
Examples:
  penstock validate
  penstock validate primary --skip ec2
  penstock --output json validate | jq '.locations[].checks[] | select(.ok | not)'";

pub(in crate::cli) const POLICY: &str = "\
Examples:
  penstock policy > role-policy.json
  penstock policy --trust --account 333333333333 --external-id ID > trust-policy.json
  penstock policy --caller
  penstock policy --kubernetes | kubectl apply -f -";

pub(in crate::cli) const SNAPSHOT_RESTORE: &str = "\
Examples:
  penstock snapshot restore disks@latest --volume vol-0123456789abcdef0 --availability-zone eu-west-1a
  penstock snapshot restore disks@latest --volume shop/db --availability-zone eu-west-1a --manifest | kubectl apply -f -";

pub(in crate::cli) const KUBERNETES_OBJECTS: &str = "\
Examples:
  penstock kubernetes objects cluster@latest
  penstock kubernetes objects cluster@latest --namespace 'shop-*' --resource '*.example.com'
  penstock kubernetes objects cluster@latest --yaml deployment/shop/web
  penstock kubernetes objects cluster@latest --yaml clusterroles.rbac.authorization.k8s.io/reader
  penstock --output json kubernetes objects cluster@latest --yaml secret/shop/db     the bytes as the server sent them

Exit codes: 0, 65 the backup is damaged, 66 no such backup, no API objects in it, or no such object.";

pub(in crate::cli) const KUBERNETES_DIFF: &str = "\
Examples:
  penstock kubernetes diff cluster@latest
  penstock kubernetes diff cluster@latest --namespace shop --context staging
  penstock --output json kubernetes diff cluster@latest | jq -r '.differences[] | select(.difference == \"only-in-backup\") | .name'

Exit codes: 0 the same, 1 something differs, otherwise by the class of the first failure: also where only one kind could not be listed.";

pub(in crate::cli) const KUBERNETES_PLAN: &str = "\
Examples:
  penstock kubernetes plan cluster@latest --namespace shop
  penstock kubernetes plan cluster@latest --namespace shop:shop-restored --storage-class gp2:gp3
  penstock kubernetes plan cluster@latest --namespace shop --with-volumes
  penstock --output json kubernetes plan cluster@latest --context new | jq '.objects[] | select(.verdict == \"refused\")'

Verdicts: create, create-unchecked, change, recreate, same, keep (exists and differs), leave (the server's own), left-out, refused.
Exit codes: 0 no conflicts, 1 conflicts or notes, otherwise by the class of the failure.";

pub(in crate::cli) const KUBERNETES_RESTORE: &str = "\
Examples:
  penstock kubernetes restore cluster@latest --namespace shop --wait 10m
  penstock kubernetes restore cluster@latest --namespace shop:shop-restored --storage-class gp2:gp3
  penstock kubernetes restore cluster@latest --namespace shop --resource configmaps --existing update
  penstock kubernetes restore cluster@latest --context new --wait 15m
  penstock kubernetes restore cluster@latest --namespace shop --with-volumes     with the data of its claims

Exit codes: 0 everything is as in the backup, 1 not everything, otherwise by the class of the failure.";

pub(in crate::cli) const CONFIG: &str = "\
Examples:
  penstock config example > /etc/penstock/penstock.toml
  penstock --config ./new.toml config check
  penstock config schema > penstock.schema.json";

pub(in crate::cli) const KEY_GENERATE: &str = "\
Examples:
  penstock key generate operator.txt
  penstock key generate - | age --passphrase > operator.txt.age     protected by a passphrase; to restore, --identity <(age --decrypt operator.txt.age)

Exit codes: 0, 73 where the file exists, 74 where it cannot be written.";

pub(in crate::cli) const KEY_SHOW: &str = "\
Examples:
  penstock key show operator.txt
  penstock key show recipients.txt
  age --decrypt operator.txt.age | penstock key show /dev/stdin";
