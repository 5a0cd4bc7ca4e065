//! Documents as the providers send them, shortened to what makes them theirs.

use serde_json::{Value, json};

use crate::stage::SHA;

pub(crate) fn github_push(reference: &str, sha: &str, paths: &[&str]) -> Vec<u8> {
    bytes(&json!({
        "ref": reference,
        "before": "9049f1265b7d61be4a8904a9a27120d2064dab3b",
        "after": sha,
        "repository": {
            "id": 186853002, "node_id": "MDEwOlJlcG9zaXRvcnkxODY4NTMwMDI=", "name": "web", "full_name": "acme/web",
            "private": true, "owner": { "name": "acme", "email": null, "login": "acme", "id": 21031067 },
            "html_url": "https://github.com/acme/web", "default_branch": "main", "master_branch": "main"
        },
        "pusher": { "name": "ann", "email": "ann@acme.example" },
        "sender": { "login": "ann", "id": 21031067, "type": "User", "site_admin": false },
        "created": false, "deleted": sha.bytes().all(|b| b == b'0'), "forced": false, "base_ref": null,
        "compare": "https://github.com/acme/web/compare/9049f1265b7d...6113728f27ae",
        "commits": [{
            "id": sha, "tree_id": "f9d2a07e9488b91af2641b26b9407fe22a451433", "distinct": true,
            "message": "Mend the basket on Thursdays", "timestamp": "2026-11-20T15:20:41+01:00",
            "url": "https://github.com/acme/web/commit/6113728f27ae", "author": { "name": "Ann", "username": "ann" },
            "added": [], "removed": [], "modified": paths
        }],
        "head_commit": { "id": sha, "message": "Mend the basket on Thursdays" }
    }))
}

pub(crate) fn github_release(action: &str) -> Vec<u8> {
    bytes(&json!({
        "action": action,
        "release": {
            "url": "https://api.github.com/repos/acme/web/releases/17372790", "id": 17372790, "tag_name": "v1.4.0",
            "target_commitish": "main", "name": "Autumn", "draft": false, "prerelease": false, "author": { "login": "ann" }
        },
        "repository": { "full_name": "acme/web", "name": "web" },
        "sender": { "login": "ann" }
    }))
}

pub(crate) fn github_package(digest: &str) -> Vec<u8> {
    bytes(&json!({
        "action": "published",
        "package": {
            "id": 1111, "name": "web", "namespace": "acme", "ecosystem": "CONTAINER", "package_type": "CONTAINER",
            "package_version": {
                "id": 2222, "version": digest, "target_oid": SHA,
                "container_metadata": { "tag": { "name": "v1.4.0", "digest": digest } }
            }
        },
        "repository": { "full_name": "acme/web" },
        "sender": { "login": "ann" }
    }))
}

pub(crate) fn github_ping() -> Vec<u8> {
    bytes(&json!({ "zen": "Design for failure.", "hook_id": 1, "repository": { "full_name": "acme/web" } }))
}

pub(crate) fn gitlab_push(reference: &str) -> Vec<u8> {
    bytes(&json!({
        "object_kind": if reference.starts_with("refs/tags/") { "tag_push" } else { "push" },
        "event_name": "push", "before": "95790bf891e76fee5e1747ab589903a6a1f80f22",
        "after": "2222222222222222222222222222222222222222", "ref": reference, "ref_protected": true, "checkout_sha": SHA,
        "user_id": 4, "user_name": "Ann", "user_username": "ann", "user_email": "",
        "project_id": 15,
        "project": {
            "id": 15, "name": "Web", "namespace": "Acme", "path_with_namespace": "acme/web", "default_branch": "main",
            "web_url": "https://gitlab.example/acme/web"
        },
        "commits": [{ "id": SHA, "message": "Mend", "added": ["CHANGELOG"], "modified": ["app/basket.rs"], "removed": [] }],
        "total_commits_count": 1
    }))
}

pub(crate) fn gitlab_release() -> Vec<u8> {
    bytes(&json!({
        "object_kind": "release", "action": "create", "tag": "v1.4.0", "name": "Autumn",
        "project": { "path_with_namespace": "acme/web" }, "commit": { "id": SHA, "message": "Mend" }
    }))
}

pub(crate) fn gitea_push(reference: &str) -> Vec<u8> {
    bytes(&json!({
        "ref": reference, "before": "28e1879d029cb852e4844d9c718537df08844e03", "after": SHA,
        "compare_url": "https://gitea.example/acme/web/compare/28e1879d...bffeb74224",
        "commits": [{ "id": SHA, "message": "Mend", "added": [], "removed": [], "modified": ["README.md"] }],
        "repository": { "id": 140, "name": "web", "full_name": "acme/web", "default_branch": "main" },
        "pusher": { "id": 1, "login": "ann" }, "sender": { "id": 1, "login": "ann", "username": "ann" }
    }))
}

pub(crate) fn registry(events: &[Value]) -> Vec<u8> {
    bytes(&json!({ "events": events }))
}

/// A notification of distribution.
pub(crate) fn notification(id: &str, action: &str, tag: Option<&str>, digest: &str) -> Value {
    let mut event = json!({
        "id": id, "timestamp": "2026-11-20T15:20:41.1234Z", "action": action,
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 708, "length": 708,
            "repository": "acme/web", "url": "https://registry.example/v2/acme/web/manifests/sha256:fea8895f"
        },
        "request": { "id": "6df24a34", "addr": "192.0.2.9:42961", "host": "registry.example", "method": "PUT", "useragent": "curl/7.88.1" },
        "actor": { "name": "ann" }, "source": { "addr": "registry:5000", "instanceID": "a53db899" }
    });
    if let Some(tag) = tag {
        event["target"]["tag"] = tag.into();
    }
    event
}

pub(crate) fn harbor(digest: &str) -> Vec<u8> {
    bytes(&json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1586922308, "operator": "ann",
        "event_data": {
            "resources": [{ "digest": digest, "tag": "v1.4.0", "resource_url": "registry.example/acme/web:v1.4.0" }],
            "repository": { "date_created": 1586922308, "name": "web", "namespace": "acme", "repo_full_name": "acme/web", "repo_type": "private" }
        }
    }))
}

pub(crate) fn dockerhub() -> Vec<u8> {
    bytes(&json!({
        "callback_url": "https://registry.hub.docker.com/u/acme/web/hook/2141b5bi5i5b02bec211i4eeih0242eg11000a/",
        "push_data": { "pushed_at": 1417566161, "pusher": "ann", "tag": "v1.4.0" },
        "repository": { "comment_count": 0, "name": "web", "namespace": "acme", "repo_name": "acme/web", "status": "Active" }
    }))
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap()
}
