//! An object's body as it comes, counted, with what an error about it needs.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::Error;
use crate::aws::classify::{Context, Service};
use crate::aws::failure::Call;
use crate::error::Class;
use crate::metrics;

pub(super) struct Incoming {
    pub(super) resource: String,
    pub(super) context: Arc<Context>,
    pub(super) trust: String,
    pub(super) metrics: metrics::Location,
    pub(super) body: ByteStream,
    pub(super) left: u64,
}

impl Incoming {
    /// The next bytes and what is left to read; after an error or the end, nothing.
    pub(super) async fn step(state: Option<Self>) -> Option<(Result<Bytes, Error>, Option<Self>)> {
        let mut this = state?;
        let next = this.body.next().await;
        let (context, resource) = (this.context.clone(), this.resource.clone());
        let call =
            Call { service: Service::S3, operation: "GetObject", resource, context: &context, trust: &this.trust };
        match next {
            Some(Ok(bytes)) => {
                let count = bytes.len() as u64;
                this.metrics.downloaded(count);
                this.left = this.left.saturating_sub(count);
                Some((Ok(bytes), Some(this)))
            }
            Some(Err(error)) => Some((Err(call.transport(&error)), None)),
            None if this.left > 0 => {
                let message = format!("the body ended {} bytes early", this.left);
                Some((Err(call.error(Class::Transient, message)), None))
            }
            None => None,
        }
    }
}
