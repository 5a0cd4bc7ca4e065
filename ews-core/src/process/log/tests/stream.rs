//! The log as a stream: it ends when it should, is woken, and reads nothing ahead.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::stream::stream as log_stream;
use super::*;

type Wake = futures_core::stream::BoxStream<'static, ()>;

fn woken_by(receiver: UnboundedReceiver<()>) -> Wake {
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|()| ((), receiver)) }).boxed()
}

#[tokio::test]
async fn without_follow_it_ends_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &limits(65, 9), &[1, 2, 3, 4].map(numbered));
    // The wake never comes and never ends.
    let lines = log_stream(dir.path().to_owned(), LogOptions::tail(3), stream::pending().boxed());
    let lines: Vec<LogLine> = lines.map(crate::Result::unwrap).collect().await;
    assert_eq!(lines, [2, 3, 4].map(numbered));
}

#[tokio::test]
async fn with_follow_it_goes_on_when_woken_and_ends_with_the_wake_and_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), &limits(65, 9)).unwrap();
    let (wake, receiver) = unbounded_channel();
    let mut lines = log_stream(dir.path().to_owned(), LogOptions::follow(), woken_by(receiver));
    write(&mut writer, &numbered(1));
    assert_eq!(lines.next().await.unwrap().unwrap(), numbered(1));
    for number in 2..20 {
        write(&mut writer, &numbered(number));
        // A wake for nothing does no harm.
        (0..number % 3 + 1).for_each(|_| wake.send(()).unwrap());
        assert_eq!(lines.next().await.unwrap().unwrap(), numbered(number));
    }
    (20..=25).for_each(|number| write(&mut writer, &numbered(number)));
    drop(wake);
    let rest: Vec<LogLine> = lines.map(crate::Result::unwrap).collect().await;
    assert_eq!(rest, Vec::from_iter((20..=25).map(numbered)));
}

#[tokio::test]
async fn what_is_written_just_before_the_wake_ends_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().to_owned();
    let wake = stream::poll_fn(move |_| {
        write_all(&log, &roomy(), &[numbered(1)]);
        std::task::Poll::Ready(None)
    });
    let lines = log_stream(dir.path().to_owned(), LogOptions::follow(), wake.boxed());
    assert_eq!(lines.map(crate::Result::unwrap).collect::<Vec<_>>().await, [numbered(1)]);
}

#[tokio::test]
async fn a_log_that_does_not_exist_yet_can_be_followed_from_wake_to_wake() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("later");
    let log = dir.clone();
    // A wake is asked for only when a look has found nothing, so each look but the first finds just what its wake wrote.
    let wake = stream::iter(1..=9).map(move |number| write_all(&log, &limits(65, 9), &[numbered(number)]));
    let options = LogOptions { tail: Some(0), ..LogOptions::follow() };
    let lines: Vec<_> = log_stream(dir, options, wake.boxed()).map(crate::Result::unwrap).collect().await;
    assert_eq!(lines, Vec::from_iter((1..=9).map(numbered)));
}

#[tokio::test]
async fn nothing_is_read_ahead_of_what_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let sample = line(OUT, 1, vec![b'x'; 1_000], false);
    write_all(dir.path(), &roomy(), &vec![sample; 3_000]);
    let mut lines = log_stream(dir.path().to_owned(), LogOptions::default(), stream::pending().boxed());
    assert!(lines.next().await.is_some());
    // What is read from here on is not there any more: a batch and what was in the reader's window come, at most.
    std::fs::write(segment::path(dir.path(), 1), "").unwrap();
    let rest = lines.count().await;
    assert!(rest < 600, "{rest} lines were read ahead");
}

#[tokio::test]
async fn dropping_it_drops_its_wake() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &roomy(), &[numbered(1)]);
    let held = Arc::new(());
    let holder = Arc::clone(&held);
    let wake = stream::pending().inspect(move |()| drop(Arc::clone(&holder))).boxed();
    let mut lines = log_stream(dir.path().to_owned(), LogOptions::follow(), wake);
    assert!(lines.next().await.is_some());
    assert_eq!(Arc::strong_count(&held), 2);
    drop(lines);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn it_ends_after_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no-directory");
    std::fs::write(&file, "x").unwrap();
    let mut lines = log_stream(file, LogOptions::follow(), stream::pending().boxed());
    let error = lines.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unavailable, "{error}");
    assert_eq!(error.operation(), "runtime.logs");
    assert!(lines.next().await.is_none());
}
