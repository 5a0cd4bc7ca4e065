//! Files of a spec that are no secrets.

use ews_core::spec::content::{ConfigFile, FileContent, FileMode};
use ews_core::spec::resources::ByteSize;
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{ErrorKind, VolumeName};

use super::{Site, shell};
use crate::engine::docker;
use crate::rig::unique;

fn file(path: &str, content: &str, mode: u16) -> ConfigFile {
    let mut file = ConfigFile::new(path, FileContent::Content(content.to_owned()));
    file.mode = FileMode::new(mode).unwrap();
    file
}

#[tokio::test]
async fn they_are_there_as_the_spec_says() {
    let Some(site) = Site::new().await else { return };
    let look = "for f in /etc/a.conf /srv/new/deep/b /etc/empty; do stat -c '%n %a %u:%g %s' $f; done; stat -c '%n %a' /srv/new /etc; \
        cat /etc/a.conf; sh /srv/new/deep/b";
    let mut spec = shell(look);
    spec.user = Some("web".to_owned());
    spec.files = vec![
        file("/etc/a.conf", "中文 \"quoted\"\nline 2", 0o644),
        file("/srv/new/deep/b", "echo ran", 0o755),
        file("/etc/empty", "", 0o600),
    ];
    let wanted = "/etc/a.conf 644 0:0 22\n/srv/new/deep/b 755 0:0 8\n/etc/empty 600 0:0 0\n/srv/new 755\n/etc 755\n\
        中文 \"quoted\"\nline 2ran";
    assert_eq!(site.output(&spec, 0).await.1, wanted);
    // Another content is another spec: refused under the same key, and there after the instance was made anew.
    spec.files[0] = file("/etc/a.conf", "changed\n", 0o644);
    assert_eq!(site.create(&spec, 0).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    site.remove(0).await;
    let said = site.output(&spec, 0).await.1;
    assert!(said.contains("changed\nran") && said.contains("/etc/a.conf 644 0:0 8"), "{said}");
    site.remove(0).await;
}

#[tokio::test]
async fn where_they_can_not_be_they_are_refused() {
    let Some(site) = Site::new().await else { return };
    let volume = unique();
    let mut spec = shell("cat /data/x");
    spec.files = vec![file("/data/x", "in a volume", 0o644)];
    spec.mounts = vec![Mount::new("/data", MountKind::Volume(VolumeName::new(&volume).unwrap()))];
    assert_eq!(site.output(&spec, 0).await.1, "in a volume");
    site.remove(0).await;
    spec.mounts = vec![Mount::new("/data", MountKind::Tmpfs(ByteSize::from_mib(1)))];
    let error = site.create(&spec, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    spec.mounts.clear();
    spec.security.read_only_root = true;
    let error = site.create(&spec, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let left = docker(&["ps", "-aq", "--filter", &format!("label=ews.owner={}", site.owner)]);
    assert_eq!(left, "", "what is refused leaves no container");
    docker(&["volume", "rm", &volume]);
}
