//! Leases, locks and fencing tokens.

use super::*;
use crate::store::{Fence, Lease, LeaseId, Transaction};

pub(super) async fn run<H: StoreHarness>(suite: &mut Suite<'_, H>) {
    cases! { suite:
        "a lease outside the limits is invalid" => limits,
        "a record says which lease it lives by" => says_lease,
        "records end with their lease, in one transaction that watches show" => expiry,
        "a renewed lease lives on" => renewed,
        "a lease that ended can't be renewed" => not_renewed,
        "a revoked lease takes its records with it" => revoked,
        "a revoke of an ended lease does nothing" => revoked_twice,
        "leases end each in its turn" => in_turn,
        "a put under no living lease is NotFound" => no_lease,
        "a put without a lease frees the record from it" => freed,
        "a put under another lease moves the record" => moved,
        "a deleted record does not come back to end with its lease" => deleted_before,
        "one holds the lock and another is told who" => busy,
        "the same lease takes its lock again" => again,
        "a lock given back can be taken" => given_back,
        "a lost lock is given back without an error" => lost_unlock,
        "a later holder's token is larger" => larger_token,
        "a fence admits the holder" => admits,
        "a fence refuses a lost lock, held by another or nobody" => refuses,
        "a holder that was paused beyond its lease can't write" => paused_holder,
        "a fence of a lock taken anew by its holder is a new one" => new_fence,
        "a lease that lived at a reopen begins anew and ends" => reopened,
        "a fence holds across a reopen" => fence_reopened,
    }
}

/// The shortest lease, so that a suite against a real clock is short.
async fn grant(store: &dyn Store) -> Lease {
    store.grant(store.limits().lease.0).await.unwrap()
}

async fn grant_long(store: &dyn Store) -> Lease {
    store.grant(store.limits().lease.1.min(Duration::from_secs(600))).await.unwrap()
}

async fn put_leased(store: &dyn Store, at: &str, lease: &Lease) -> StoreRevision {
    store.commit(&Transaction::new().put_leased(&key(at), "x", lease)).await.unwrap()
}

/// Waits until the record is deleted.
async fn ended(store: &dyn Store, at: &str, after: StoreRevision) -> WatchBatch {
    let mut watch = store.watch(&Prefix::all(), after).await.unwrap();
    loop {
        let batch = next(&mut watch).await;
        if batch.changes.iter().any(|change| matches!(change, Change::Deleted(gone) if *gone == key(at))) {
            return batch;
        }
    }
}

async fn limits<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let (shortest, longest) = store.limits().lease;
    for ttl in [Duration::ZERO, shortest / 2, longest + Duration::from_secs(1), Duration::MAX] {
        refused(store.grant(ttl).await, ErrorKind::Invalid);
    }
    let lease = store.grant(longest).await?;
    assert_eq!(lease.ttl, longest);
    assert_ne!(store.grant(longest).await?.id, lease.id);
    Ok(())
}

async fn says_lease<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    put_leased(&store, "a", &lease).await;
    assert_eq!(get(&store, "a").await.lease, Some(lease.id));
    Ok(())
}

async fn expiry<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "stays", "x").await;
    let lease = grant(&store).await;
    let both = Transaction::new().put_leased(&key("a/1"), "x", &lease).put_leased(&key("a/2"), "x", &lease);
    let start = store.commit(&both).await?;
    let batch = ended(&store, "a/1", start).await;
    let mut gone = shown(&batch);
    gone.sort();
    assert_eq!(gone, ["deleted a/1", "deleted a/2"]);
    absent(&store, "a/1").await;
    absent(&store, "a/2").await;
    assert_eq!(get(&store, "stays").await.value, "x");
    assert_eq!(tick(&store).await, StoreRevision(batch.revision.0 + 1));
    Ok(())
}

async fn renewed<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant(&store).await;
    let start = put_leased(&store, "a", &lease).await;
    for _ in 0..6 {
        tokio::time::sleep(lease.ttl / 2).await;
        store.renew(lease.id).await?;
    }
    assert_eq!(get(&store, "a").await.lease, Some(lease.id), "three times its time to live has passed");
    ended(&store, "a", start).await;
    Ok(())
}

async fn not_renewed<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant(&store).await;
    let start = put_leased(&store, "a", &lease).await;
    ended(&store, "a", start).await;
    refused(store.renew(lease.id).await, ErrorKind::NotFound);
    refused(store.renew(LeaseId(u64::MAX - 7)).await, ErrorKind::NotFound);
    Ok(())
}

async fn revoked<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    let start = put_leased(&store, "a", &lease).await;
    put_leased(&store, "b", &lease).await;
    store.revoke(lease.id).await?;
    absent(&store, "a").await;
    let batch = ended(&store, "a", start).await;
    assert_eq!(batch.changes.len(), 2);
    refused(store.renew(lease.id).await, ErrorKind::NotFound);
    Ok(())
}

async fn revoked_twice<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    put_leased(&store, "a", &lease).await;
    store.revoke(lease.id).await?;
    let before = tick(&store).await;
    store.revoke(lease.id).await?;
    store.revoke(LeaseId(u64::MAX - 7)).await?;
    assert_eq!(tick(&store).await, StoreRevision(before.0 + 1), "nothing was deleted");
    Ok(())
}

async fn in_turn<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let short = grant(&store).await;
    let longer = store.grant(short.ttl * 2).await?;
    let start = put_leased(&store, "longer", &longer).await;
    put_leased(&store, "short", &short).await;
    let first = ended(&store, "short", start).await;
    assert_eq!(shown(&first), ["deleted short"]);
    let second = ended(&store, "longer", start).await;
    assert!(second.revision > first.revision);
    Ok(())
}

async fn no_lease<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    store.revoke(lease.id).await?;
    let never = Lease::new(LeaseId(u64::MAX - 7), lease.ttl);
    for lease in [&lease, &never] {
        let transaction = Transaction::new().put(&key("b"), "x").put_leased(&key("a"), "x", lease);
        refused(store.commit(&transaction).await, ErrorKind::NotFound);
    }
    absent(&store, "a").await;
    absent(&store, "b").await;
    Ok(())
}

async fn freed<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    put_leased(&store, "a", &lease).await;
    put(&store, "a", "free").await;
    store.revoke(lease.id).await?;
    let record = get(&store, "a").await;
    assert_eq!((record.value, record.lease), ("free".into(), None));
    Ok(())
}

async fn moved<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let (first, second) = (grant_long(&store).await, grant_long(&store).await);
    put_leased(&store, "a", &first).await;
    put_leased(&store, "a", &second).await;
    store.revoke(first.id).await?;
    assert_eq!(get(&store, "a").await.lease, Some(second.id));
    store.revoke(second.id).await?;
    absent(&store, "a").await;
    Ok(())
}

async fn deleted_before<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    put_leased(&store, "a", &lease).await;
    store.delete(&key("a"), Expect::Present).await?;
    put(&store, "a", "new").await;
    store.revoke(lease.id).await?;
    assert_eq!(get(&store, "a").await.value, "new");
    Ok(())
}

async fn busy<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let (mine, theirs) = (grant_long(&store).await, grant_long(&store).await);
    let fence = store.lock(&key("lock"), &mine, "controller-1").await?;
    assert_eq!(get(&store, "lock").await.created, fence.token);
    let error = store.lock(&key("lock"), &theirs, "controller-2").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("controller-1"), "{error}");
    Ok(())
}

async fn again<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    let fence = store.lock(&key("lock"), &lease, "me").await?;
    assert_eq!(store.lock(&key("lock"), &lease, "me").await?, fence);
    Ok(())
}

async fn given_back<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let (mine, theirs) = (grant_long(&store).await, grant_long(&store).await);
    let fence = store.lock(&key("lock"), &mine, "me").await?;
    store.unlock(&fence).await?;
    store.lock(&key("lock"), &theirs, "them").await?;
    Ok(())
}

async fn lost_unlock<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let (mine, theirs) = (grant_long(&store).await, grant_long(&store).await);
    let lost = store.lock(&key("lock"), &mine, "me").await?;
    store.revoke(mine.id).await?;
    let held = store.lock(&key("lock"), &theirs, "them").await?;
    store.unlock(&lost).await?;
    assert_eq!(get(&store, "lock").await.created, held.token, "the other still holds it");
    Ok(())
}

async fn larger_token<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let mut token = StoreRevision::ZERO;
    for holder in ["a", "b", "c"] {
        let lease = grant_long(&store).await;
        let fence = store.lock(&key("lock"), &lease, holder).await?;
        assert!(fence.token > token);
        token = fence.token;
        store.revoke(lease.id).await?;
    }
    Ok(())
}

async fn admits<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    let fence = store.lock(&key("lock"), &lease, "me").await?;
    for value in ["one", "two"] {
        store.commit(&Transaction::new().fence(fence.clone()).put(&key("a"), value)).await?;
    }
    assert_eq!(get(&store, "a").await.value, "two");
    Ok(())
}

async fn fenced(store: &dyn Store, fence: &Fence) -> Result<StoreRevision> {
    store.commit(&Transaction::new().fence(fence.clone()).put(&key("guarded"), "overwritten")).await
}

async fn refuses<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "guarded", "mine").await;
    let (mine, theirs) = (grant_long(&store).await, grant_long(&store).await);
    let fence = store.lock(&key("lock"), &mine, "me").await?;
    store.revoke(mine.id).await?;
    refused(fenced(&store, &fence).await, ErrorKind::Stale);
    store.lock(&key("lock"), &theirs, "them").await?;
    refused(fenced(&store, &fence).await, ErrorKind::Stale);
    assert_eq!(get(&store, "guarded").await.value, "mine");
    Ok(())
}

async fn paused_holder<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant(&store).await;
    let fence = store.lock(&key("lock"), &lease, "paused").await?;
    fenced(&store, &fence).await?;
    // The holder does nothing for as long as its lease lives, and goes on as if nothing had been.
    tokio::time::sleep(lease.ttl).await;
    ended(&store, "lock", fence.token).await;
    refused(fenced(&store, &fence).await, ErrorKind::Stale);
    let successor = grant_long(&store).await;
    let taken = store.lock(&key("lock"), &successor, "successor").await?;
    refused(fenced(&store, &fence).await, ErrorKind::Stale);
    fenced(&store, &taken).await?;
    Ok(())
}

async fn new_fence<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    let old = store.lock(&key("lock"), &lease, "me").await?;
    store.unlock(&old).await?;
    let new = store.lock(&key("lock"), &lease, "me").await?;
    assert!(new.token > old.token);
    refused(fenced(&store, &old).await, ErrorKind::Stale);
    fenced(&store, &new).await?;
    Ok(())
}

async fn reopened<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant(&store).await;
    let start = put_leased(&store, "a", &lease).await;
    let store = skip_without(harness.reopen(store).await, "reopen")?;
    assert_eq!(get(&store, "a").await.lease, Some(lease.id));
    store.renew(lease.id).await?;
    let other = grant_long(&store).await;
    assert_ne!(other.id, lease.id);
    ended(&store, "a", start).await;
    Ok(())
}

async fn fence_reopened<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let lease = grant_long(&store).await;
    let fence = store.lock(&key("lock"), &lease, "me").await?;
    let store = skip_without(harness.reopen(store).await, "reopen")?;
    fenced(&store, &fence).await?;
    store.revoke(lease.id).await?;
    refused(fenced(&store, &fence).await, ErrorKind::Stale);
    Ok(())
}
