//! Archives over async streams.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::super::names::Inside;
use super::super::pack::Target;
use super::super::stream::start;
use super::super::{Limits, Owner, get, put};
use super::{Forge, Yard, kind};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::ByteStream;

fn pieces(archive: &[u8]) -> ByteStream {
    let pieces: Vec<_> = archive.chunks(300).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

async fn put_into(yard: &Yard, path: &str, archive: ByteStream) -> Result<()> {
    put(yard.inside(""), path, archive, Limits::default(), Owner::default()).await
}

async fn collect(mut archive: ByteStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = archive.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes
}

#[tokio::test]
async fn archives_go_round_through_streams() {
    let (yard, other) = (Yard::new(), Yard::new());
    std::fs::create_dir(yard.inside("scratch")).unwrap();
    let large = vec![7; 1_000_000];
    put_into(&yard, "/scratch", pieces(&Forge::default().file("a/large", &large).file("a/x", "x").end()))
        .await
        .unwrap();
    assert_eq!(std::fs::read(yard.inside("scratch/a/large")).unwrap(), large);
    let archive = collect(get(yard.inside(""), "scratch/a").await.unwrap()).await;
    put_into(&other, "/", pieces(&archive)).await.unwrap();
    assert_eq!(std::fs::read(other.inside("a/large")).unwrap(), large);
    assert_eq!(std::fs::read(other.inside("a/x")).unwrap(), b"x");
}

#[tokio::test]
async fn what_is_missing_is_said_by_the_call_itself() {
    let yard = Yard::new();
    std::fs::write(yard.inside("file"), "x").unwrap();
    let archive = || pieces(&Forge::default().file("x", "x").end());
    for (path, refused) in
        [("nothing", ErrorKind::NotFound), ("file", ErrorKind::Invalid), ("../out", ErrorKind::Invalid)]
    {
        assert_eq!(kind(put_into(&yard, path, archive()).await), refused, "{path}");
    }
    for (path, refused) in [("nothing", ErrorKind::NotFound), ("../out", ErrorKind::Invalid)] {
        assert_eq!(kind(get(yard.inside(""), path).await.map(drop)), refused, "{path}");
    }
    let gone = yard.inside("no-such-root");
    assert_eq!(kind(get(gone.clone(), "x").await.map(drop)), ErrorKind::NotFound);
    let put = put(gone, "", archive(), Limits::default(), Owner::default()).await;
    assert_eq!(kind(put), ErrorKind::NotFound);
    yard.assert_untouched("refused paths");
}

#[tokio::test]
async fn an_error_of_the_stream_is_the_puts_error() {
    let yard = Yard::new();
    let whole = Forge::default().file("a", "x").file("b", "y").end();
    let broken = stream::iter([
        Ok(Bytes::copy_from_slice(&whole[..1200])),
        Err(Error::new(ErrorKind::Timeout, "the sender is silent")),
        Ok(Bytes::copy_from_slice(&whole[1200..])),
    ]);
    let error = put_into(&yard, "", broken.boxed()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Timeout, "the sender is silent"));
    assert!(error.maybe_applied());
    assert!(!yard.inside("b").exists());
}

#[tokio::test]
async fn a_stream_that_ends_early_is_no_whole_archive() {
    let whole = Forge::default().file("a", "x").end();
    assert_eq!(kind(put_into(&Yard::new(), "", pieces(&whole[..1024])).await), ErrorKind::Invalid);
    assert_eq!(kind(put_into(&Yard::new(), "", stream::empty().boxed()).await), ErrorKind::Invalid);
}

/// The sender says nothing more, and is not waited for.
#[tokio::test]
async fn a_refused_archive_is_answered_before_its_sender_is_done() {
    let bad = Forge::default().file("../x", "x").end();
    let silent = stream::iter([Ok(Bytes::from(bad))]).chain(stream::pending());
    assert_eq!(kind(put_into(&Yard::new(), "", silent.boxed()).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_thread_ends_when_nobody_reads() {
    let yard = Yard::new();
    // Far more than the channel holds, so that the thread can't have ended by itself.
    std::fs::write(yard.inside("large"), vec![1; 4 << 20]).unwrap();
    let place = Inside::from_path("large", &Limits::default()).unwrap();
    let (mut pieces, work) = start(Target::find(&yard.dir, &place).unwrap());
    assert!(pieces.recv().await.is_some());
    drop(pieces);
    assert_eq!(kind(work.await.unwrap()), ErrorKind::Cancelled);
}

// A file that can't be read needs somebody other than root; a tree that is too deep fails for everybody. On Windows it would
// be longer than a path may be.
#[cfg(unix)]
#[tokio::test]
async fn what_fails_later_is_the_last_item() {
    let yard = Yard::new();
    let deep = vec!["d"; Limits::default().depth + 2].join("/");
    yard.dir.create_dir_all(&deep).unwrap();
    let items: Vec<_> = get(yard.inside(""), "d").await.unwrap().collect().await;
    let (last, before) = items.split_last().unwrap();
    assert_eq!(last.as_ref().map(Bytes::len).map_err(Error::kind), Err(ErrorKind::Invalid));
    assert!(before.iter().all(Result::is_ok));
}
