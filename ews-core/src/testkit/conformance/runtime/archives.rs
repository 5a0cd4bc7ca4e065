//! Behaviour 39: archives in and out, and none that leads out of its directory.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::cx::{Cx, refused};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind};
use crate::id::InstanceId;
use crate::runtime::ByteStream;
use crate::testkit::conformance::Stop;
use crate::testkit::tar::{self, Entry, EntryKind};

cases! {
    39 archives_round_trip,
    39 hostile_archives_are_refused,
    39 archives_of_what_is_missing_are_not_found,
}

/// In small pieces, so that none holds a whole header.
fn pieces(archive: Vec<u8>) -> ByteStream {
    let pieces: Vec<_> = archive.chunks(300).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

async fn get(cx: &Cx<'_>, id: &InstanceId, path: &str) -> Result<Vec<Entry>, Error> {
    let mut archive = cx.rt().await?.get_archive(id, path).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = archive.next().await {
        bytes.extend_from_slice(&piece?);
    }
    tar::read(&bytes)
}

async fn host(cx: &Cx<'_>) -> Result<(InstanceId, String), Stop> {
    cx.need(Capability::PutArchive).await?;
    cx.need(Capability::GetArchive).await?;
    let id = cx.start_workload(&Workload::Sleep, 0).await?.id;
    Ok((id, cx.harness.scratch_directory()))
}

async fn archives_round_trip(cx: &Cx<'_>) -> CaseResult {
    let (id, directory) = host(cx).await?;
    let binary: Vec<u8> = (0..100_000_u32).map(|i| (i % 256) as u8).collect();
    let entries = [Entry::file("ews-a/b/binary", binary), Entry::file("ews-a/empty", "")];
    cx.rt().await?.put_archive(&id, &directory, pieces(tar::write(&entries))).await?;
    let back = get(cx, &id, &format!("{directory}/ews-a")).await?;
    let files: Vec<_> = back.iter().filter(|entry| entry.kind == EntryKind::File).collect();
    for entry in &entries {
        // Directories and the order of names are the engine's affair, and so is the first part of a name.
        let tail = entry.name.trim_start_matches("ews-a/");
        let found = files.iter().find(|file| file.name.ends_with(tail));
        ensure!(
            found.is_some_and(|file| file.content == entry.content),
            "`{}` did not come back as it went in; the archive holds {:?}",
            entry.name,
            back.iter().map(|entry| &entry.name).collect::<Vec<_>>()
        );
    }
    ensure!(files.len() == 2, "two files came back as {}", files.len());
    let one = get(cx, &id, &format!("{directory}/ews-a/b/binary")).await?;
    ensure!(one.len() == 1, "one file came back as {} entries", one.len());
    Ok(())
}

async fn hostile_archives_are_refused(cx: &Cx<'_>) -> CaseResult {
    let (id, directory) = host(cx).await?;
    let runtime = cx.rt().await?;
    let through = |target: &str| {
        vec![Entry::special("ews-link", EntryKind::Symlink, target), Entry::file("ews-link/ews-escaped", "x")]
    };
    for (what, entries) in [
        ("`..`", vec![Entry::file("../ews-escaped", "x")]),
        ("`..` inside", vec![Entry::file("a/../../ews-escaped", "x")]),
        ("an absolute name", vec![Entry::file("/ews-escaped", "x")]),
        ("a symbolic link out", through("..")),
        ("an absolute symbolic link", through("/")),
        ("a hard link out", vec![Entry::special("ews-hard", EntryKind::Link, "../../etc/passwd")]),
        ("a device", vec![Entry::special("ews-device", EntryKind::Special, "")]),
    ] {
        let result = runtime.put_archive(&id, &directory, pieces(tar::write(&entries))).await;
        refused(&format!("an archive with {what}"), result, &[ErrorKind::Invalid])?;
        for outside in ["/ews-escaped".to_owned(), format!("{directory}/../ews-escaped")] {
            let found = get(cx, &id, &outside).await;
            ensure!(found.is_err(), "an archive with {what} was refused, and {outside} is there");
        }
    }
    let result = runtime.put_archive(&id, &directory, pieces(b"this is no archive".repeat(100))).await;
    refused("what is no archive", result, &[ErrorKind::Invalid])?;
    Ok(())
}

async fn archives_of_what_is_missing_are_not_found(cx: &Cx<'_>) -> CaseResult {
    let (id, directory) = host(cx).await?;
    let runtime = cx.rt().await?;
    let missing = &[ErrorKind::NotFound];
    let nowhere = format!("{directory}/ews-no-such-thing");
    refused("get_archive of no file", runtime.get_archive(&id, &nowhere).await.map(drop), missing)?;
    let archive = || pieces(tar::write(&[Entry::file("a", "x")]));
    refused("put_archive into no directory", runtime.put_archive(&id, &nowhere, archive()).await, missing)?;
    let nobody = cx.key(99)?.to_id()?;
    refused("get_archive of nobody", runtime.get_archive(&nobody, &directory).await.map(drop), missing)?;
    refused("put_archive into nobody", runtime.put_archive(&nobody, &directory, archive()).await, missing)?;
    Ok(())
}
