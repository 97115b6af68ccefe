//! Implements the port [`crate::site`], for `validate`.

use async_trait::async_trait;
use bytes::Bytes;

use super::AwsLocation;
use super::classify::Service as Classed;
use super::dry_run;
use super::failure::Call;
use super::handshake::shake;
use super::http::host_and_port;
use crate::disks::Tags;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::site::{Certificate, Ec2Action, Handshake, Permission, Service, Site, Step};
use crate::store::{self, VersionId};

impl AwsLocation {
    /// A service's URL, from the SDK; an error if it cannot make a URL of the region or bucket.
    async fn url(&self, service: Service) -> Result<String, String> {
        use aws_sdk_ec2::config::endpoint::ResolveEndpoint as _;
        use aws_sdk_s3::config::endpoint::ResolveEndpoint as _;
        use aws_sdk_sts::config::endpoint::ResolveEndpoint as _;
        let at = &self.addresses;
        let given = match service {
            Service::S3 => &at.s3_url,
            Service::Sts => &at.sts_url,
            Service::Ec2 => &at.ec2_url,
        };
        if let Some(url) = given {
            return Ok(url.clone());
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let endpoint = match service {
            Service::S3 => {
                use aws_sdk_s3::config::endpoint::{DefaultResolver, Params};
                let params = Params::builder().region(&at.region).bucket(&at.bucket);
                let params = params.force_path_style(at.force_path_style).build().map_err(|e| text(&e))?;
                DefaultResolver::new().resolve_endpoint(&params).await
            }
            Service::Sts => {
                use aws_sdk_sts::config::endpoint::{DefaultResolver, Params};
                let params = Params::builder().region(&at.region).build().map_err(|e| text(&e))?;
                DefaultResolver::new().resolve_endpoint(&params).await
            }
            Service::Ec2 => {
                use aws_sdk_ec2::config::endpoint::{DefaultResolver, Params};
                let params = Params::builder().region(&at.region).build().map_err(|e| text(&e))?;
                DefaultResolver::new().resolve_endpoint(&params).await
            }
        };
        endpoint.map(|endpoint| endpoint.url().to_owned()).map_err(|error| text(&error))
    }
}

#[async_trait]
impl Site for AwsLocation {
    fn trusted(&self) -> String {
        self.trust().to_string()
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.trust().certificates().to_vec()
    }

    async fn who(&self) -> Vec<Step> {
        self.chain.who().await
    }

    async fn handshake(&self, service: Service) -> Option<Result<Handshake, store::Error>> {
        if service == Service::Sts && !self.chain.asks_sts() {
            return None;
        }
        let trust = self.trust();
        let words = trust.to_string();
        let classed = match service {
            Service::S3 => Classed::S3,
            Service::Sts => Classed::Sts,
            Service::Ec2 => Classed::Ec2,
        };
        let call = |resource: String| Call { service: classed, operation: "connecting to", resource, trust: &words };
        let url = match self.url(service).await {
            Ok(url) => url,
            Err(error) => return Some(Err(call("its endpoint".to_owned()).error(Class::Config, error))),
        };
        let Some((host, port)) = host_and_port(&url) else { return Some(Ok(Handshake::Plain { url })) };
        let (shown, result) = shake(&host, port, trust.roots(), self.http.proxy()).await;
        Some(match (result, shown.certificate.clone(), shown.protocol) {
            (Ok(()), Some(certificate), Some(protocol)) => Ok(Handshake::Tls { url, protocol, certificate }),
            (Ok(()), ..) => Err(call(url).error(Class::Tls, "the server showed no certificate")),
            (Err(error), certificate, _) => {
                let mut failed = call(url).transport(error.as_ref());
                if certificate.is_some() {
                    failed.message = format!("{shown}: {}", failed.message);
                }
                Err(failed)
            }
        })
    }

    fn skew(&self) -> Option<i64> {
        self.skew.milliseconds().or_else(|| self.chain.skew().milliseconds())
    }

    async fn bucket_region(&self) -> Result<Option<String>, store::Error> {
        self.store.bucket_region().await
    }

    async fn put_without_kms(&self, key: &ObjectKey, data: Bytes) -> Result<(), store::Error> {
        self.store.put_without_kms(key, data).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, data: Bytes) -> Result<(), store::Error> {
        self.store.put_if_absent(key, data).await
    }

    async fn version_of(&self, key: &ObjectKey) -> Result<Option<VersionId>, store::Error> {
        self.store.version_of(key).await
    }

    async fn dry_run(&self, action: Ec2Action, tags: &Tags) -> Result<Permission, store::Error> {
        let trust = self.trust().to_string();
        let call =
            Call { service: Classed::Ec2, operation: action.as_str(), resource: "(dry run)".to_owned(), trust: &trust };
        dry_run::ask(&self.ec2, action, tags, &self.addresses.region, &call).await
    }
}
