//! Behaviours 27, 32 and 33: what is listed, and what is told without being asked.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::cx::{Cx, within};
use super::{CaseResult, Disturbance, Workload, cases, ensure};
use crate::event::{EventStream, Notice, RuntimeEvent};
use crate::id::InstanceId;
use crate::instance::{Incarnation, Instance, InstanceState};
use crate::label::Labels;
use crate::runtime::{RemoveOptions, StopOptions};
use crate::selector::Selector;
use crate::testkit::conformance::Stop;

cases! {
    27 lists_are_exact_for_many,
    32 every_transition_is_told,
    32 events_are_complete_or_a_gap_says_so,
    33 a_broken_event_stream_goes_on_with_a_gap,
}

/// Creates or removes this many at a time.
const AT_ONCE: usize = 16;

/// Creates so many instances, `third` being 0, 1 or 2 in turn.
async fn many(cx: &Cx<'_>) -> CaseResult {
    let base = cx.spec(&Workload::Sleep)?;
    let creates = stream::iter(0..cx.limits.many).map(|slot| {
        let mut spec = base.clone();
        async move {
            spec.labels = Labels::new([("third", (slot % 3).to_string())])?;
            cx.create(&spec, slot).await
        }
    });
    let mut creates = creates.buffer_unordered(AT_ONCE);
    while let Some(created) = creates.next().await {
        created?;
    }
    Ok(())
}

async fn remove_all(cx: &Cx<'_>) -> CaseResult {
    let runtime = &cx.rt().await?;
    let removes = stream::iter(cx.list().await?)
        .map(|instance| async move { runtime.remove(&instance.id, &RemoveOptions::force()).await });
    let mut removes = removes.buffer_unordered(AT_ONCE);
    while let Some(removed) = removes.next().await {
        removed?;
    }
    Ok(())
}

async fn lists_are_exact_for_many(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let count = cx.limits.many;
    many(cx).await?;
    let own = cx.selector()?;
    let all = runtime.list(&own).await?;
    let mut slots: Vec<u32> = all.iter().map(|instance| instance.key.slot).collect();
    slots.sort_unstable();
    ensure!(slots == (0..count).collect::<Vec<_>>(), "{count} instances are listed as {}", slots.len());
    ensure!(all.is_sorted_by_key(|instance| &instance.id), "the list is not ordered by id");
    for third in 0..3 {
        let some = runtime.list(&own.and(&format!("third={third}").parse()?)).await?;
        let wanted = (0..count).filter(|slot| slot % 3 == third).count();
        let right = some.iter().all(|instance| instance.key.slot % 3 == third);
        ensure!(right && some.len() == wanted, "of {wanted} with third={third}, {} are listed", some.len());
    }
    for (text, wanted) in [
        ("third in (0,1,2)".to_owned(), count as usize),
        ("third notin (0,1,2)".to_owned(), 0),
        ("!third".to_owned(), 0),
        ("fourth=0".to_owned(), 0),
        (format!("ews/slot={}", count - 1), 1),
        ("ews/generation=1".to_owned(), 0),
        (format!("ews/instance={}", all.first().map_or("none", |i| i.id.as_str())), 1),
    ] {
        let some = runtime.list(&own.and(&text.parse()?)).await?;
        ensure!(some.len() == wanted, "`{text}` selects {} instead of {wanted}", some.len());
    }
    remove_all(cx).await?;
    ensure!(cx.list().await?.is_empty(), "all were removed and some are listed");
    Ok(())
}

/// The next notice that is no news of a node.
async fn next(cx: &Cx<'_>, events: &mut EventStream) -> Result<Notice<RuntimeEvent>, Stop> {
    loop {
        match within("the next event", cx.limits.patience, events.next()).await? {
            Some(Notice::Event(RuntimeEvent::Node { .. })) => {}
            Some(notice) => return Ok(notice),
            None => return Err(Stop::fail("the stream of events ended while its driver lives")),
        }
    }
}

/// Somebody who listens to one instance, and what was told so far.
struct Listener<'a> {
    events: EventStream,
    of: &'a Instance,
    neighbour: InstanceId,
    told: Vec<(&'static str, Incarnation)>,
}

impl Listener<'_> {
    /// Listens until it is told that this start runs; where none is named, until the removal is told.
    async fn listen(&mut self, cx: &Cx<'_>, running: Option<Incarnation>) -> CaseResult {
        loop {
            match next(cx, &mut self.events).await? {
                Notice::Gap(gap) => {
                    return Err(Stop::fail(format!(
                        "nothing was broken and a gap came: {gap:?}; so far {:?}",
                        self.told
                    )));
                }
                Notice::Event(RuntimeEvent::Instance { id, key, incarnation, state, .. }) => {
                    ensure!(id != self.neighbour, "an event came of an instance that was not selected");
                    ensure!(key == self.of.key, "an event names the key {key}");
                    if let InstanceState::Exited(status) = &state
                        && incarnation == self.of.incarnation
                    {
                        ensure!(status.code == Some(4), "it exited with 4; the event says `{status}`");
                    }
                    self.told.push((state.as_str(), incarnation));
                    if state == InstanceState::Running && running == Some(incarnation) {
                        return Ok(());
                    }
                }
                Notice::Event(RuntimeEvent::Removed { id, .. }) => {
                    ensure!(id == self.of.id, "the removal of {id} was told");
                    ensure!(running.is_none(), "a removal was told that nobody asked for");
                    return Ok(());
                }
                Notice::Event(_) => {}
            }
        }
    }
}

async fn every_transition_is_told(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let own = cx.selector()?;
    let events = runtime.events(&own.and(&Selector::equal("ews/slot", "0")?)).await?;
    let spec = cx.spec(&Workload::ExitOnTerm { code: 4, after: Duration::ZERO })?;
    // A neighbour that nobody asked about.
    let neighbour = cx.start(&spec, 1).await?.id;
    let started = cx.start(&spec, 0).await?;
    let mut listener = Listener { events, of: &started, neighbour, told: Vec::new() };
    // A driver may look at what runs before it tells of it, so what is told next must be true until then.
    listener.listen(cx, Some(started.incarnation)).await?;
    cx.line(&started.id, "ready").await?;
    runtime.stop(&started.id, &StopOptions::default()).await?;
    let again = runtime.start(&started.id).await?;
    listener.listen(cx, Some(again.incarnation)).await?;
    runtime.remove(&started.id, &RemoveOptions::force()).await?;
    listener.listen(cx, None).await?;
    let told = listener.told;
    // Others may come between; these must, in this order.
    let mut wanted = [
        ("created", Incarnation(0)),
        ("running", started.incarnation),
        ("exited", started.incarnation),
        ("running", again.incarnation),
    ]
    .into_iter()
    .peekable();
    for event in &told {
        wanted.next_if_eq(event);
    }
    ensure!(wanted.peek().is_none(), "{:?} was not told, or out of order; told was {told:?}", wanted.peek());
    Ok(())
}

async fn events_are_complete_or_a_gap_says_so(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let mut events = runtime.events(&cx.selector()?).await?;
    // Nobody reads meanwhile, so that a queue of any sane bound overflows.
    many(cx).await?;
    remove_all(cx).await?;
    let (mut removed, mut gap) = (0, false);
    let last = cx.create(&cx.spec(&Workload::Sleep)?, cx.limits.many).await?;
    runtime.remove(&last.id, &RemoveOptions::force()).await?;
    while removed <= cx.limits.many && !gap {
        match next(cx, &mut events).await? {
            Notice::Event(RuntimeEvent::Removed { .. }) => removed += 1,
            Notice::Event(_) => {}
            Notice::Gap(_) => gap = true,
        }
    }
    // After a gap the stream goes on.
    if gap {
        while tokio::time::timeout(Duration::from_millis(500), events.next()).await.is_ok_and(|n| n.is_some())
        {
        }
        let probe = cx.create(&cx.spec(&Workload::Sleep)?, cx.limits.many + 1).await?;
        loop {
            match next(cx, &mut events).await? {
                Notice::Event(RuntimeEvent::Instance { id, .. }) if id == probe.id => break,
                _ => {}
            }
        }
    }
    Ok(())
}

async fn a_broken_event_stream_goes_on_with_a_gap(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let mut events = runtime.events(&cx.selector()?).await?;
    let first = cx.create(&cx.spec(&Workload::Sleep)?, 0).await?;
    loop {
        if let Notice::Event(RuntimeEvent::Instance { id, .. }) = next(cx, &mut events).await? {
            ensure!(id == first.id, "an event came of {id}");
            break;
        }
    }
    if !cx.harness.disturb(Disturbance::BreakEvents).await {
        return Err(Stop::skip("the harness can't break the stream of events"));
    }
    let created = cx
        .until("a create after the break", async || Ok(cx.create(&cx.spec(&Workload::Sleep)?, 1).await.ok()))
        .await?;
    let mut gap = false;
    loop {
        match next(cx, &mut events).await? {
            Notice::Gap(_) => gap = true,
            Notice::Event(RuntimeEvent::Instance { id, .. }) if id == created.id => break,
            Notice::Event(_) => {}
        }
        // The create may lie inside the gap; another one does not.
        if gap {
            cx.rt().await?.start(&created.id).await?;
        }
    }
    ensure!(gap, "the stream broke and went on without a gap");
    let list = cx.list().await?;
    ensure!(list.len() == 2, "after the gap, a list shows {} instances of two", list.len());
    Ok(())
}
