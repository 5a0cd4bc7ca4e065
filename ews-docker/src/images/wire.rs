//! What is read of an engine's answers about images.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::client::models::{models, nullable};

models! {
    /// One of `GET /images/json`. `created` is in seconds since 1970.
    ImageListed {
        id: String = "Id",
        parent: String = "ParentId",
        tags: Vec<String> = "RepoTags",
        digests: Vec<String> = "RepoDigests",
        labels: BTreeMap<String, String> = "Labels",
        created: i64 = "Created",
    }
    /// `GET /images/{name}/json`.
    ImageInspected {
        id: String = "Id",
        tags: Vec<String> = "RepoTags",
        digests: Vec<String> = "RepoDigests",
        created: String = "Created",
        size: i64 = "Size",
        os: String = "Os",
        arch: String = "Architecture",
        variant: String = "Variant",
        os_version: String = "OsVersion",
        config: Value = "Config",
        root: RootFs = "RootFS",
    }
    RootFs { layers: Vec<String> = "Layers" }
    /// One of `GET /images/{name}/history`, the newest first. `created` is in seconds since 1970.
    HistoryEntry {
        created: i64 = "Created",
        created_by: String = "CreatedBy",
        comment: String = "Comment",
        size: i64 = "Size",
    }
    /// One of `GET /containers/json`, as far as it holds an image.
    User {
        image: String = "Image",
        image_id: String = "ImageID",
    }
    /// `GET /containers/{id}/json`, as far as a commit needs it.
    Committed {
        id: String = "Id",
        image: String = "Image",
        config: CommittedConfig = "Config",
    }
    CommittedConfig {
        image: String = "Image",
        labels: BTreeMap<String, String> = "Labels",
    }
    /// One of what `DELETE /images/{name}` did.
    Deleted {
        deleted: Option<String> = "Deleted",
    }
}
