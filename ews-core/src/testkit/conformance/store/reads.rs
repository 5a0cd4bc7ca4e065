//! Lists: prefixes, pages, and pages that are one picture.

use super::*;
use crate::store::{ListPage, ListRequest, Transaction};

pub(super) async fn run<H: StoreHarness>(suite: &mut Suite<'_, H>) {
    cases! { suite:
        "an empty store lists nothing" => empty,
        "a list is ordered by the bytes of its keys" => ordered,
        "a prefix covers whole segments only" => whole_segments,
        "pages follow on one another" => pages,
        "a page holds no more than the store's limit" => page_limit,
        "a page of no records is invalid" => no_records,
        "a page may begin anywhere" => begins_anywhere,
        "pages at one revision are one picture" => one_picture,
        "a list at a future revision is refused" => future,
        "list_all gathers every page and minds its bound" => gathers,
        "a list at a compacted revision is refused" => compacted,
    }
}

fn keys(page: &ListPage) -> Vec<&str> {
    page.records.iter().map(|record| record.key.as_str()).collect()
}

async fn empty<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let page = store.list(&ListRequest::new(Prefix::all())).await?;
    assert!(page.records.is_empty() && !page.more);
    put(&store, "a/b", "x").await;
    let page = store.list(&ListRequest::new(prefix("b/"))).await?;
    assert!(page.records.is_empty() && !page.more);
    Ok(())
}

async fn ordered<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for text in ["b", "a/b", "中", "a-b", "a", "B", "a/b/c", "é"] {
        put(&store, text, "x").await;
    }
    let page = store.list(&ListRequest::new(Prefix::all())).await?;
    assert_eq!(keys(&page), ["B", "a", "a-b", "a/b", "a/b/c", "b", "é", "中"]);
    Ok(())
}

async fn whole_segments<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for text in ["web", "web/1", "web/1/x", "web0", "web2/1", "wea/1"] {
        put(&store, text, "x").await;
    }
    let page = store.list(&ListRequest::new(prefix("web/"))).await?;
    assert_eq!(keys(&page), ["web/1", "web/1/x"]);
    Ok(())
}

async fn fill(store: &dyn Store, count: usize) {
    let mut n = 0;
    while n < count {
        let mut transaction = Transaction::new();
        for _ in 0..store.limits().operations.min(count - n) {
            transaction = transaction.put(&key(&format!("n/{n:05}")), n.to_string());
            n += 1;
        }
        store.commit(&transaction).await.unwrap();
    }
}

async fn pages<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    fill(&store, 10).await;
    put(&store, "z", "beyond").await;
    let mut request = ListRequest::new(prefix("n/")).limit(4);
    let mut seen = Vec::new();
    for (length, more) in [(4, true), (4, true), (2, false)] {
        let page = store.list(&request).await?;
        assert_eq!((page.records.len(), page.more), (length, more));
        seen.extend(page.records.into_iter().map(|record| record.key));
        request = request.after(seen[seen.len() - 1].clone());
    }
    assert_eq!(seen, (0..10).map(|n| key(&format!("n/{n:05}"))).collect::<Vec<_>>());
    let exact = store.list(&ListRequest::new(prefix("n/")).limit(10)).await?;
    assert!(exact.records.len() == 10 && !exact.more, "a full last page has no more");
    Ok(())
}

async fn page_limit<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let limit = store.limits().page;
    fill(&store, limit + 1).await;
    let page = store.list(&ListRequest::new(Prefix::all())).await?;
    assert!(page.records.len() <= limit && page.more, "{} records", page.records.len());
    Ok(())
}

async fn no_records<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    refused(store.list(&ListRequest::new(Prefix::all()).limit(0)).await, ErrorKind::Invalid);
    Ok(())
}

async fn begins_anywhere<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for text in ["a/1", "m/1", "m/3", "z/1"] {
        put(&store, text, "x").await;
    }
    for (after, expected) in [
        ("a/1", vec!["m/1", "m/3"]),
        ("m", vec!["m/1", "m/3"]),
        ("m/2", vec!["m/3"]),
        ("m/3", vec![]),
        ("z/0", vec![]),
    ] {
        let page = store.list(&ListRequest::new(prefix("m/")).after(key(after))).await?;
        assert_eq!((keys(&page), page.more), (expected, false), "after {after}");
    }
    Ok(())
}

async fn one_picture<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    fill(&store, 9).await;
    let whole = store.list(&ListRequest::new(prefix("n/"))).await?;
    let mut request = ListRequest::new(prefix("n/")).limit(3);
    let first = store.list(&request).await?;
    request = request.at(first.revision);
    let mut seen = first.records;
    let mut change = 0;
    loop {
        // Between the pages: a change, a removal and a new record behind the place, at it and ahead of it.
        for at in ["n/00000", "n/00004", "n/00008"] {
            change += 1;
            put(&store, at, &format!("changed {change}")).await;
        }
        store.delete(&key("n/00005"), Expect::Any).await?;
        put(&store, "n/00005", "again").await;
        store.delete(&key("n/00007"), Expect::Any).await?;
        put(&store, &format!("n/00006/{change}"), "new").await;
        put(&store, &format!("n/00009/{change}"), "new").await;
        let page = store.list(&request.clone().after(seen[seen.len() - 1].key.clone())).await?;
        assert_eq!(page.revision, whole.revision);
        seen.extend(page.records);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, whole.records);
    Ok(())
}

async fn future<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let now = tick(&store).await;
    let request = ListRequest::new(Prefix::all());
    store.list(&request.clone().at(now)).await?;
    refused(store.list(&request.at(StoreRevision(now.0 + 1))).await, ErrorKind::Compacted);
    Ok(())
}

async fn gathers<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let count = store.limits().page * 2 + 1;
    fill(&store, count).await;
    let all = store.list_all(&prefix("n/"), count).await?;
    assert!(all.records.len() == count && !all.more);
    refused(store.list_all(&prefix("n/"), count - 1).await, ErrorKind::OutOfResources);
    Ok(())
}

async fn compacted<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = skip_without(harness.with_history(10).await, "with_history")?;
    let early = put(&store, "a", "x").await;
    for n in 0..200 {
        put(&store, "a", &n.to_string()).await;
    }
    refused(store.list(&ListRequest::new(Prefix::all()).at(early)).await, ErrorKind::Compacted);
    Ok(())
}
