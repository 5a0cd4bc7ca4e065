//! Certificates from files, for domains that a deployment brings.
//!
//! ews-deploy owns the domains of services and knows no certificates; which one a domain gets is said in the configuration. So
//! [`Certified`] stands between the two: it puts the certificate into each domain on its way to the gateway, and leaves it out on the
//! way back, so that what the deployer compares is what it wrote itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Certificate, Change, DomainName, GatewayView, Object, ObjectKind,
    ObjectQuery, ObjectRef, ObserveQuery, Op, Stored,
};
use ews_core::event::Notice;
use ews_core::id::CertificateId;
use ews_core::{
    CapabilitySet, ChangeId, Clock as _, Error, Result, SecretRef, SecretValue, Secrets, SystemClock,
};
use ews_route::Gateway;
use futures_util::stream::BoxStream;

use crate::config::CertificateSection;
use crate::files;

/// What ids of certificates begin with that are ours.
const OURS: &str = "host-file-";
/// The most operations of one change.
const OPS: usize = 500;

/// The gateway, with certificates for its domains.
#[derive(Debug, Clone)]
pub(crate) struct Certified {
    gateway: Gateway,
    by_domain: BTreeMap<DomainName, CertificateId>,
}

impl Certified {
    /// Gives the gateway these certificates, and each domain that it has the one that is for it now.
    pub(crate) async fn start(gateway: Gateway, sections: &[CertificateSection]) -> Result<Self> {
        let (mut by_domain, mut certificates) = (BTreeMap::new(), Vec::new());
        for (index, section) in sections.iter().enumerate() {
            let id = CertificateId::new(format!("{OURS}{index}"))?;
            certificates.push(Certificate::new(
                id.clone(),
                reference(index, "chain")?,
                reference(index, "key")?,
            ));
            for domain in &section.domains {
                by_domain.entry(domain.clone()).or_insert_with(|| id.clone());
            }
        }
        let certified = Self { gateway, by_domain };
        certified.settle(certificates).await?;
        Ok(certified)
    }

    /// The certificate for a domain: the one that names it, then its parent's, then the one for all.
    fn of(&self, domain: &DomainName) -> Option<CertificateId> {
        let parent = domain.as_str().split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let parent = parent.and_then(|parent| DomainName::new(&parent).ok());
        let all = DomainName::new("*").ok();
        let names = [Some(domain), parent.as_ref(), all.as_ref()];
        names.into_iter().flatten().find_map(|name| self.by_domain.get(name)).cloned()
    }

    async fn settle(&self, certificates: Vec<Certificate>) -> Result<()> {
        let stored = self.all().await?;
        let mut ops = Vec::new();
        let wanted: BTreeSet<_> = certificates.iter().map(|certificate| certificate.id.clone()).collect();
        for certificate in certificates {
            let object = Object::Certificate(certificate);
            if !stored.contains(&object) {
                ops.push(Op::Put(object));
            }
        }
        let mut gone = Vec::new();
        for object in stored {
            match object {
                Object::Domain(domain) if domain.certificate.as_ref().is_none_or(is_ours) => {
                    let certificate = self.of(&domain.name);
                    if certificate != domain.certificate {
                        ops.push(Op::Put(Object::Domain(domain.with_certificate(certificate))));
                    }
                }
                Object::Certificate(certificate)
                    if is_ours(&certificate.id) && !wanted.contains(&certificate.id) =>
                {
                    gone.push(Op::Delete(ObjectRef::Certificate(certificate.id)));
                }
                _ => {}
            }
        }
        ops.append(&mut gone);
        let now = SystemClock.now().as_micros();
        for (part, ops) in ops.chunks(OPS).enumerate() {
            let id = ChangeId::new(format!("certificates-{now}-{part}"))?;
            self.gateway.apply(&Change::new(id, ops.to_vec())).await?;
        }
        Ok(())
    }

    async fn all(&self) -> Result<Vec<Object>> {
        let mut query = ObjectQuery::kinds([ObjectKind::Domain, ObjectKind::Certificate]).limit(1_000);
        let mut all = Vec::new();
        loop {
            let page = self.gateway.objects(&query).await?;
            let Some(last) = page.last().map(|stored| stored.object.reference()) else { return Ok(all) };
            query = query.after(last);
            all.extend(page.into_iter().map(|stored| stored.object));
        }
    }
}

fn is_ours(id: &CertificateId) -> bool {
    id.as_str().starts_with(OURS)
}

fn reference(index: usize, what: &str) -> Result<SecretRef> {
    format!("{OURS}{index}/{what}").parse()
}

#[async_trait]
impl Balancer for Certified {
    fn capabilities(&self) -> CapabilitySet {
        self.gateway.capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let mut change = change.clone();
        for op in &mut change.ops {
            if let Op::Put(Object::Domain(domain)) = op
                && domain.certificate.is_none()
            {
                domain.certificate = self.of(&domain.name);
            }
        }
        self.gateway.apply(&change).await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        let mut found = self.gateway.objects(query).await?;
        for stored in &mut found {
            if let Object::Domain(domain) = &mut stored.object
                && domain.certificate.as_ref().is_some_and(is_ours)
            {
                domain.certificate = None;
            }
        }
        Ok(found)
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        self.gateway.observe(query).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        self.gateway.watch().await
    }
}

/// The files of the configuration's certificates, as the gateway asks for them.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    files: BTreeMap<String, PathBuf>,
}

impl CertificateFiles {
    /// The files of these sections. Each is read once now, so that what can't be is found out at the start.
    pub(crate) fn new(sections: &[CertificateSection]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for (index, section) in sections.iter().enumerate() {
            for (what, path) in [("chain", &section.chain), ("key", &section.key)] {
                let field = format!("gateway.certificates[{index}].{what}");
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                read(&path, what == "key")
                    .map_err(|error| Error::new(error.kind(), format!("`{field}`: {}", error.message())))?;
                files.insert(format!("{OURS}{index}/{what}"), path);
            }
        }
        Ok(Self { files })
    }
}

#[async_trait]
impl Secrets for CertificateFiles {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let Some(path) = self.files.get(reference.name()).cloned() else {
            return Err(Error::not_found("file of a certificate", reference));
        };
        let is_key = reference.name().ends_with("/key");
        let read = tokio::task::spawn_blocking(move || read(&path, is_key)).await;
        read.unwrap_or_else(|error| Err(Error::internal("reading a certificate failed").with_source(error)))
    }
}

fn read(path: &Path, is_key: bool) -> Result<SecretValue> {
    if is_key { files::secret(path, "the key") } else { files::public(path, "the chain") }
}
