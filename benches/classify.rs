//! Classifying error replies: the first rule's, the last one's, and one that only its status explains.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use penstock::aws::classify::{Context, Reply, Service, classify};

fn replies(c: &mut Criterion) {
    let context = Context { sse_kms: true, region: "eu-west-1".into(), ..Context::default() };
    let denied = "User: arn:aws:sts::111111111111:assumed-role/W/s is not authorized to perform: kms:GenerateDataKey on \
                  resource: arn:aws:kms:eu-west-1:222222222222:key/9 because no identity-based policy allows the action";
    let mut group = c.benchmark_group("classify");
    for (name, service, operation, status, code, message) in [
        ("kms", Service::S3, "PutObject", 403, Some("AccessDenied"), denied),
        ("slow down", Service::S3, "UploadPart", 503, Some("SlowDown"), "Please reduce your request rate."),
        ("unknown code", Service::Ec2, "CreateSnapshot", 400, Some("Unheard"), "of"),
        ("no body", Service::S3, "HeadObject", 404, None, ""),
    ] {
        let reply = Reply { service, operation, status: Some(status), code, message };
        group.bench_function(name, |b| b.iter(|| classify(black_box(&reply), black_box(&context))));
    }
    group.finish();
}

criterion_group!(benches, replies);
criterion_main!(benches);
