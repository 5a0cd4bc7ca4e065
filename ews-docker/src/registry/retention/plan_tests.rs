//! The plan on small repositories, and on any.

use ews_core::ErrorKind;
use proptest::prelude::*;

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

/// A repository of these manifests, named by texts, with their tags.
fn contents(items: &[(&str, &[&str], Item)]) -> Contents {
    let mut contents = Contents::default();
    for (name, tags, item) in items {
        contents.manifests.insert(digest(name), item.clone());
        for tag in *tags {
            contents.tags.insert((*tag).to_owned(), digest(name));
        }
    }
    contents
}

fn referrers_tag(name: &str) -> String {
    digest(name).to_string().replace(':', "-")
}

fn deleted(plan: &Plan) -> Vec<Digest> {
    plan.delete.iter().map(|deletion| deletion.digest).collect()
}

#[test]
fn a_digest_stays_for_any_one_of_its_tags() {
    let contents = contents(&[("a", &["v1", "old"], Item::new()), ("b", &["old2"], Item::new())]);
    let plan = plan(&contents, &Rules::default().with_pinned("v*")).unwrap();
    assert_eq!(deleted(&plan), [digest("b")]);
    assert_eq!(plan.delete[0].tags, ["old2"]);
    assert_eq!(plan.keep[&digest("a")], BTreeSet::from([KeepReason::Pinned("v1".to_owned())]));
}

#[test]
fn children_and_referrers_of_what_is_kept_are_kept() {
    let (signature, sbom) = (format!("{}.sig", referrers_tag("child")), referrers_tag("index"));
    let contents = contents(&[
        ("index", &["v1"], Item::new().with_children([digest("child"), digest("lost")])),
        ("child", &["old"], Item::new()),
        ("signature", &[&signature], Item::new()),
        ("sboms", &[&sbom], Item::new().with_children([digest("sbom")])),
        ("sbom", &[], Item::new().with_subject(digest("index"))),
        ("other", &["x"], Item::new()),
        ("about other", &[&referrers_tag("other")], Item::new()),
    ]);
    let plan = plan(&contents, &Rules::default().with_kept([digest("index")])).unwrap();
    assert_eq!(deleted(&plan), [digest("about other"), digest("other")], "what is said of it goes first");
    assert_eq!(plan.keep[&digest("child")], BTreeSet::from([KeepReason::ChildOf(digest("index"))]));
    assert_eq!(plan.keep[&digest("signature")], BTreeSet::from([KeepReason::About(digest("child"))]));
    assert_eq!(
        plan.keep[&digest("sbom")],
        BTreeSet::from([KeepReason::ChildOf(digest("sboms")), KeepReason::About(digest("index"))])
    );
    assert!(!plan.keep.contains_key(&digest("lost")), "what is not there is not kept");
}

#[test]
fn a_child_that_two_indexes_share_goes_with_the_last() {
    let contents = contents(&[
        ("one", &["1"], Item::new().with_children([digest("shared"), digest("own")])),
        ("two", &["2"], Item::new().with_children([digest("shared")])),
        ("shared", &[], Item::new()),
        ("own", &[], Item::new()),
        ("three", &["3"], Item::new()),
    ]);
    let first = plan(&contents, &Rules::default().with_pinned("2").with_pinned("3")).unwrap();
    assert_eq!(deleted(&first), [digest("one"), digest("own")]);
    assert_eq!(first.delete[1].why, DeleteReason::PartOf(digest("one")));
    let both = plan(&contents, &Rules::default().with_pinned("3")).unwrap();
    assert_eq!(both.delete.len(), 4);
}

#[test]
fn the_newest_are_kept_and_those_whose_age_is_unknown() {
    let contents = contents(&[
        ("old", &["a"], Item::new().with_created(at(1))),
        ("tie one", &["b"], Item::new().with_created(at(5))),
        ("tie two", &["c"], Item::new().with_created(at(5))),
        ("index", &["d"], Item::new().with_children([digest("new child")])),
        ("new child", &[], Item::new().with_created(at(9))),
        ("unknown", &["e"], Item::new()),
    ]);
    let plan = plan(&contents, &Rules::default().with_last(2)).unwrap();
    assert_eq!(deleted(&plan), [digest("old")]);
    assert_eq!(plan.keep[&digest("index")], BTreeSet::from([KeepReason::Recent(1)]));
    assert_eq!(plan.keep[&digest("unknown")], BTreeSet::from([KeepReason::AgeUnknown]));
}

#[test]
fn what_has_no_tag_stays_unless_the_rules_say_otherwise_and_orphans_go() {
    let contents = contents(&[
        ("bare", &[], Item::new()),
        ("kept", &["v1"], Item::new()),
        ("orphan", &[&referrers_tag("gone long ago")], Item::new()),
    ]);
    let rules = Rules::default().with_pinned("v1");
    let cautious = plan(&contents, &rules).unwrap();
    assert_eq!(deleted(&cautious), [digest("orphan")]);
    assert_eq!(cautious.keep[&digest("bare")], BTreeSet::from([KeepReason::Untagged]));
    assert_eq!(plan(&contents, &rules.with_untagged()).unwrap().delete.len(), 2);
}

#[test]
fn rules_that_keep_nothing_or_nothing_here_are_refused() {
    let contents = contents(&[("a", &["1"], Item::new()), ("b", &["2"], Item::new())]);
    let invalid = |rules: Rules| plan(&contents, &rules).unwrap_err().kind() == ErrorKind::Invalid;
    assert!(invalid(Rules::default()));
    assert!(invalid(Rules::default().with_kept([digest("of another repository")])));
    for pattern in ["", "**", "v*1", "*a*"] {
        assert!(invalid(Rules::default().with_pinned(pattern)), "{pattern}");
    }
    assert!(plan(&contents, &Rules::default().with_pinned("*")).unwrap().delete.is_empty());
    assert!(serde_json::from_str::<Rules>(r#"{"keeps":[]}"#).is_err());
}

#[test]
fn tags_that_speak_of_each_other_or_of_themselves_are_no_trap() {
    let (one, two, own) = (referrers_tag("one"), referrers_tag("two"), referrers_tag("own"));
    let contents = contents(&[
        ("one", &[&two], Item::new().with_children([digest("two")])),
        ("two", &[&one], Item::new()),
        ("own", &[&own], Item::new()),
        ("kept", &["v1"], Item::new()),
    ]);
    let plan = plan(&contents, &Rules::default().with_pinned("v1")).unwrap();
    assert_eq!(plan.delete.len(), 3);
    let place = |name: &str| plan.delete.iter().position(|deletion| deletion.digest == digest(name));
    assert!(place("one") < place("two"), "{plan}");
}

#[test]
fn a_plan_is_shown_line_by_line() {
    let contents = contents(&[("a", &["v1"], Item::new()), ("b", &["x", "y"], Item::new())]);
    let shown = plan(&contents, &Rules::default().with_pinned("v1")).unwrap().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], format!("delete {} [x y] no rule keeps it", digest("b")));
    assert_eq!(lines[1], format!("keep   {} pinned as v1", digest("a")));
    assert_eq!(lines[2], "1 to delete, 1 to keep");
}

/// Any repository of twelve manifests: an index refers to smaller numbers only, as hashes do.
fn any_contents() -> impl Strategy<Value = Contents> {
    let item =
        (prop::collection::vec(0_usize..12, 0..3), prop::option::of(0_usize..14), prop::option::of(0_u64..6));
    let items = prop::collection::vec((item, any::<bool>()), 12);
    let tags = prop::collection::vec((0_usize..12, 0_usize..12), 1..10);
    (items, tags).prop_map(|(items, tags)| {
        let name = |number: usize| digest(&number.to_string());
        let mut contents = Contents::default();
        for (number, ((children, subject, created), there)) in items.into_iter().enumerate() {
            // Some are referred to and not there.
            if !there && number > 3 {
                continue;
            }
            let mut item =
                Item::new().with_children(children.into_iter().filter(|child| *child < number).map(name));
            item.subject = subject.filter(|subject| *subject != number).map(name);
            item.created = created.map(at);
            contents.manifests.insert(name(number), item);
        }
        for (index, (target, about)) in tags.into_iter().enumerate() {
            if contents.manifests.contains_key(&name(target)) {
                let tag =
                    if index % 3 == 2 { referrers_tag(&about.to_string()) } else { format!("t{index}") };
                contents.tags.insert(tag, name(target));
            }
        }
        contents
    })
}

proptest! {
    #[test]
    fn no_moment_of_any_plan_breaks_what_is_left(
        contents in any_contents(),
        keep in prop::collection::btree_set(0_usize..12, 0..3),
        last in 0_usize..3,
        untagged: bool,
    ) {
        let mut rules = Rules::default().with_kept(keep.iter().map(|n| digest(&n.to_string()))).with_pinned("t0").with_last(last);
        rules.untagged = untagged;
        let Ok(plan) = plan(&contents, &rules) else {
            prop_assert!(!contents.tags.contains_key("t0"), "a repository with the pinned tag has a plan");
            return Ok(());
        };
        let gone: BTreeSet<Digest> = deleted(&plan).into_iter().collect();
        prop_assert_eq!(gone.len(), plan.delete.len(), "each once");
        prop_assert_eq!(gone.len() + plan.keep.len(), contents.manifests.len());
        prop_assert!(plan.keep.keys().all(|digest| !gone.contains(digest)));
        prop_assert!(rules.keep.is_disjoint(&gone));
        if let Some(pinned) = contents.tags.get("t0") {
            prop_assert!(!gone.contains(pinned));
        }
        for (digest, item) in &contents.manifests {
            // What is said about something kept is kept, by subject or by tag.
            let by_tag = contents.tags.iter().filter(|(_, on)| *on == digest).filter_map(|(tag, _)| spoken_of(tag));
            for subject in item.subject.into_iter().chain(by_tag) {
                prop_assert!(!plan.keep.contains_key(&subject) || !gone.contains(digest) || subject == *digest);
            }
        }
        let mut left: BTreeSet<Digest> = contents.manifests.keys().copied().collect();
        let whole = |left: &BTreeSet<Digest>| {
            left.iter().all(|digest| {
                let children = contents.manifests[digest].children.iter();
                children.filter(|child| contents.manifests.contains_key(*child)).all(|child| left.contains(child))
            })
        };
        prop_assert!(whole(&left));
        for deletion in &plan.delete {
            left.remove(&deletion.digest);
            prop_assert!(whole(&left), "after {} an index lacks a manifest\n{}", deletion.digest, plan);
        }
    }
}
