//! What an intake is: its rules, its tokens, where uploads live, and every bound.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ews_core::time::duration;
use ews_core::{Error, Result, SecretRef};
use serde::{Deserialize, Serialize};

use super::glob::Glob;
use super::rule::Rule;

/// What an [`Intake`](super::Intake) is. A document of serde's; unknown fields are refused.
///
/// ```
/// use ews_deploy::intake::IntakeConfig;
///
/// let config: IntakeConfig = toml::from_str(
///     r#"
///     uploads = "/var/lib/shop/uploads"
///
///     [tokens.ci]
///     secrets = ["intake/ci"]
///     services = ["web", "shop-*"]
///     verbs = ["read", "upload", "deploy"]
///
///     [rules.web]
///     provider = "github"
///     secrets = ["intake/github"]
///     repositories = ["acme/web"]
///     branches = ["main"]
///     debounce = "10s"
///     source = { image = "registry.example/acme/web:{sha}" }
///     spec = { name = "web", replicas = 3, ports = { http = 8080 } }
///     "#,
/// )
/// .unwrap();
/// config.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IntakeConfig {
    /// A directory for uploads, of this intake alone. What else is in it is left alone.
    pub uploads: PathBuf,
    /// The rules of webhooks, by the name that is in their path. At most [`IntakeConfig::RULES`]. Default none.
    #[serde(default)]
    pub rules: BTreeMap<String, Rule>,
    /// Who may use the deploy API, by the name that is in the audit trail. At most [`IntakeConfig::TOKENS`]. Default nobody.
    #[serde(default)]
    pub tokens: BTreeMap<String, TokenScope>,
    /// The bounds.
    #[serde(default)]
    pub limits: IntakeLimits,
}

impl IntakeConfig {
    /// The most rules.
    pub const RULES: usize = 1_000;
    /// The most tokens.
    pub const TOKENS: usize = 64;

    /// No rules and no tokens yet, with this directory for uploads.
    pub fn new(uploads: impl Into<PathBuf>) -> Self {
        Self {
            uploads: uploads.into(),
            rules: BTreeMap::new(),
            tokens: BTreeMap::new(),
            limits: IntakeLimits::default(),
        }
    }

    /// With this rule under this name.
    #[must_use]
    pub fn with_rule(mut self, name: impl Into<String>, rule: Rule) -> Self {
        self.rules.insert(name.into(), rule);
        self
    }

    /// With this token under this name.
    #[must_use]
    pub fn with_token(mut self, name: impl Into<String>, scope: TokenScope) -> Self {
        self.tokens.insert(name.into(), scope);
        self
    }

    /// Within these bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: IntakeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Refuses what is wrong in itself.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let many = |what, count: usize, most| {
            let message = format!("{count} {what}; accepted: at most {most}");
            if count > most { Err(Error::invalid(message).with_context("field", what)) } else { Ok(()) }
        };
        many("rules", self.rules.len(), Self::RULES)?;
        many("tokens", self.tokens.len(), Self::TOKENS)?;
        for (name, rule) in &self.rules {
            check_name("rules", name)?;
            rule.check().map_err(|error| error.with_context("rule", name))?;
        }
        for (name, scope) in &self.tokens {
            check_name("tokens", name)?;
            check_secrets(&scope.secrets).map_err(|error| error.with_context("token", name))?;
        }
        self.limits.check()
    }
}

fn check_name(field: &'static str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::invalid(
        "a name that can't stand in a path; accepted: 1 to 64 letters, digits, `-`, `_`, `.`, not starting with `.`",
    )
    .with_context("field", field))
}

/// One to four secrets, so that one can be replaced while the other still holds.
pub(super) fn check_secrets(secrets: &[SecretRef]) -> Result<()> {
    if (1..=4).contains(&secrets.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!("{} secrets; accepted: 1 to 4", secrets.len()))
        .with_context("field", "secrets"))
}

/// What a token opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TokenScope {
    /// Where its value is; 1 to 4, each of at least 16 bytes of randomness. Never the value itself.
    pub secrets: Vec<SecretRef>,
    /// The services that it is about. Default none.
    #[serde(default)]
    pub services: Vec<Glob>,
    /// What it may do. Default nothing.
    #[serde(default)]
    pub verbs: Vec<Verb>,
}

impl TokenScope {
    /// The token of this secret, which opens nothing yet.
    pub fn new(secret: SecretRef) -> Self {
        Self { secrets: vec![secret], services: Vec::new(), verbs: Vec::new() }
    }

    /// About these services.
    #[must_use]
    pub fn with_services(mut self, services: impl IntoIterator<Item = Glob>) -> Self {
        self.services.extend(services);
        self
    }

    /// For this.
    #[must_use]
    pub fn with_verbs(mut self, verbs: impl IntoIterator<Item = Verb>) -> Self {
        self.verbs.extend(verbs);
        self
    }
}

/// Something that a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verb {
    /// Status, history, plans, rollouts, the audit trail and events.
    Read,
    /// Uploads of its own.
    Upload,
    /// Deployments.
    Deploy,
    /// Rollback, restart, pause, resume, abort and cancel.
    Control,
    /// The count.
    Scale,
    /// Files of running instances.
    Hotfix,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Upload => "upload",
            Self::Deploy => "deploy",
            Self::Control => "control",
            Self::Scale => "scale",
            Self::Hotfix => "hotfix",
        })
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $default:expr, $with:ident $(, $serde:literal)?;)+) => {
        /// The bounds of an [`Intake`](super::Intake). The defaults are choices of ours for a team's CI, on a disk with 20 GiB to spare.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct IntakeLimits {
            $($(#[$doc])* $(#[serde(with = $serde)])? pub $field: $kind,)+
        }

        impl Default for IntakeLimits {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl IntakeLimits {
            $(
                /// With this in place of the default.
                #[must_use]
                pub fn $with(mut self, $field: $kind) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}

limits! {
    /// The largest body of a webhook, in bytes. From 1. Default 4 MiB; GitHub sends none above 25 MiB.
    hook_body: usize = 4 << 20, with_hook_body;
    /// The largest document of the API, in bytes. From 1. Default 1 MiB.
    api_body: usize = 1 << 20, with_api_body;
    /// How many delivery ids of each rule are remembered. From 1 to 4,096. Default 512.
    deliveries: usize = 512, with_deliveries;
    /// How many times something is tried that may pass. From 1. Default 8: with waits of 1 s that double up to 5 min, about 2 min
    /// until it is given up.
    attempts: u32 = 8, with_attempts;
    /// How many ends of deployments are followed and told at once; the earliest is forgotten for the next. 1 to 100,000. Default
    /// 1,000.
    followed: usize = 1_000, with_followed;
    /// How many things are made at once: sources of webhooks and of the API. 1 to 1,024. Default 4.
    making: usize = 4, with_making;
    /// How long making one may take. Above zero, at most a day. Default 30 min.
    making_limit: Duration = Duration::from_secs(1_800), with_making_limit, "duration";
    /// The largest upload, in bytes. From 1. Default 1 GiB.
    upload: u64 = 1 << 30, with_upload;
    /// How many uploads there are at once. 1 to 100,000. Default 200.
    uploads: usize = 200, with_uploads;
    /// How many uploads of one token there are at once. From 1. Default 50.
    token_uploads: usize = 50, with_token_uploads;
    /// How many bytes all uploads may come to, said or written. From 1. Default 16 GiB: that much of the disk, and some KiB
    /// for each.
    disk: u64 = 16 << 30, with_disk;
    /// How many bytes the uploads of one token may come to. From 1. Default 8 GiB.
    token_disk: u64 = 8 << 30, with_token_disk;
    /// How long an upload is kept after its last byte. Above zero, at most a year. Default a day.
    expiry: Duration = Duration::from_secs(24 * 3_600), with_expiry, "duration";
    /// How long an upload's sender may be silent. Above zero, at most a day. Default 30 s.
    silence: Duration = Duration::from_secs(30), with_silence, "duration";
    /// How long one request of an upload may take. Above zero, at most a day. Default an hour.
    upload_limit: Duration = Duration::from_secs(3_600), with_upload_limit, "duration";
    /// How many streams of events there are at once. 1 to 65,536. Default 64.
    streams: usize = 64, with_streams;
}

impl IntakeLimits {
    fn check(&self) -> Result<()> {
        let wrong = |field, what: &str| {
            Err(Error::invalid(format!("`{field}` is out of bounds; accepted: {what}"))
                .with_context("field", "limits"))
        };
        let from_one = [
            ("hook_body", self.hook_body as u64),
            ("api_body", self.api_body as u64),
            ("attempts", u64::from(self.attempts)),
            ("followed", self.followed as u64),
            ("making", self.making as u64),
            ("upload", self.upload),
            ("uploads", self.uploads as u64),
            ("token_uploads", self.token_uploads as u64),
            ("disk", self.disk),
            ("token_disk", self.token_disk),
            ("streams", self.streams as u64),
        ];
        if let Some((field, _)) = from_one.into_iter().find(|(_, value)| *value == 0) {
            return wrong(field, "at least 1");
        }
        if !(1..=4_096).contains(&self.deliveries) {
            return wrong("deliveries", "1 to 4,096");
        }
        for (field, value, most, accepted) in [
            ("making", self.making, 1_024, "1 to 1,024"),
            ("streams", self.streams, 65_536, "1 to 65,536"),
            ("followed", self.followed, 100_000, "1 to 100,000"),
            ("uploads", self.uploads, 100_000, "1 to 100,000"),
        ] {
            if value > most {
                return wrong(field, accepted);
            }
        }
        let (day, of_a_day) = (Duration::from_secs(24 * 3_600), "above zero, at most a day");
        for (field, value, most, accepted) in [
            ("making_limit", self.making_limit, day, of_a_day),
            ("expiry", self.expiry, day * 365, "above zero, at most a year"),
            ("silence", self.silence, day, of_a_day),
            ("upload_limit", self.upload_limit, day, of_a_day),
        ] {
            if value.is_zero() || value > most {
                return wrong(field, accepted);
            }
        }
        Ok(())
    }
}
