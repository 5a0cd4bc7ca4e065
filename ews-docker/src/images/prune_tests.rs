//! What goes and what stays, as the pure plan has it.

use proptest::prelude::*;

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn image(name: &str, parent: &str, tagged: bool, ours: bool) -> ImageListed {
    let mut image = ImageListed { id: digest(name).to_string(), ..ImageListed::default() };
    if !parent.is_empty() {
        image.parent = digest(parent).to_string();
    }
    if tagged {
        image.tags = vec![format!("shop/{name}:1")];
        image.digests = vec![format!("shop/{name}@{}", digest(&format!("manifest of {name}")))];
    } else {
        image.tags = vec!["<none>:<none>".to_owned()];
    }
    if ours {
        image.labels.insert(OWNER.to_owned(), "me".to_owned());
    }
    image
}

fn user(image: &str, image_id: &str) -> User {
    User { image: image.to_owned(), image_id: image_id.to_owned() }
}

fn keeping(keep: Vec<Digest>) -> PruneOptions {
    let mut options = PruneOptions::default();
    options.keep = keep;
    options
}

fn names(images: &[ImageListed], users: &[User], options: &PruneOptions) -> Vec<(Digest, bool)> {
    plan(images, users, options).unwrap().into_iter().map(|one| (one.id, one.with_steps)).collect()
}

fn going(images: &[ImageListed], users: &[User], options: &PruneOptions) -> Vec<Digest> {
    names(images, users, options).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn only_what_is_ours_and_free_goes() {
    let images =
        [image("ours", "", true, true), image("theirs", "", true, false), image("loose", "", false, true)];
    let mut free = vec![digest("ours"), digest("loose")];
    free.sort_by_key(ToString::to_string);
    assert_eq!(going(&images, &[], &PruneOptions::default()), free);
    // Whatever word a container has for its image.
    for words in [
        user("x", &images[0].id),
        user(&images[0].id, ""),
        user(&images[0].id[7..19], ""),
        user("shop/ours:1", "sha256:a manifest"),
        user("docker.io/shop/ours:1", ""),
        user(&images[0].digests[0], ""),
    ] {
        assert_eq!(
            going(&images, std::slice::from_ref(&words), &PruneOptions::default()),
            [digest("loose")],
            "{words:?}"
        );
    }
    for keep in [digest("ours"), digest("manifest of ours")] {
        let options = keeping(vec![keep]);
        assert_eq!(going(&images, &[], &options), [digest("loose")]);
    }
}

#[test]
fn ancestors_of_what_stays_stay_and_children_go_first() {
    let images = [
        image("base", "", true, true),
        image("step", "base", false, false),
        image("app", "step", true, true),
        image("child", "app", true, true),
    ];
    assert_eq!(
        going(&images, &[], &PruneOptions::default()),
        [digest("child"), digest("app"), digest("base")]
    );
    let keep = |name: &str| keeping(vec![digest(name)]);
    assert_eq!(going(&images, &[], &keep("app")), [digest("child")]);
    assert_eq!(going(&images, &[], &keep("child")), []);
    assert_eq!(going(&images, &[], &keep("base")), [digest("child"), digest("app")]);
    // A step that is kept must not go along with what was made from it.
    assert_eq!(names(&images, &[], &keep("step")), [(digest("child"), false), (digest("app"), false)]);
    // What somebody else made from ours holds it.
    let theirs = [
        image("base", "", true, true),
        image("step", "base", false, false),
        image("app", "step", true, false),
    ];
    assert_eq!(going(&theirs, &[], &PruneOptions::default()), []);
}

#[test]
fn a_ring_of_parents_is_no_end() {
    let images = [image("a", "b", true, true), image("b", "a", true, true)];
    assert_eq!(going(&images, &[], &PruneOptions::default()).len(), 2);
    assert_eq!(going(&images, &[user("", &images[0].id)], &PruneOptions::default()), []);
}

proptest! {
    /// Whatever the forest of images: nothing that is used, kept or not meant goes, nor an ancestor of it, and children go first.
    #[test]
    fn nothing_that_is_needed_goes(
        forest in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<bool>(), 0_u8..6), 1..20),
    ) {
        let mut images: Vec<ImageListed> = Vec::new();
        let (mut users, mut keep) = (Vec::new(), Vec::new());
        for (number, (parent, tagged, ours, fate)) in forest.iter().enumerate() {
            let parent = if number == 0 { String::new() } else { parent.index(number + 1).to_string() };
            let parent = if parent == number.to_string() { String::new() } else { parent };
            images.push(image(&number.to_string(), &parent, *tagged, *ours));
            match fate {
                0 => users.push(user("", &digest(&number.to_string()).to_string())),
                1 => keep.push(digest(&number.to_string())),
                _ => {}
            }
        }
        let options = keeping(keep.clone());
        let gone = going(&images, &users, &options);
        let is_gone = |image: &ImageListed| gone.contains(&look::id(&image.id).unwrap());
        for image in &images {
            if is_gone(image) {
                prop_assert!(image.labels.contains_key(OWNER));
                prop_assert!(!keep.contains(&look::id(&image.id).unwrap()));
                prop_assert!(!users.iter().any(|user| user.image_id == image.id));
            } else if let Some(parent) = images.iter().find(|parent| parent.id == image.parent) {
                let step = image.tags == ["<none>:<none>"] && images.iter().any(|child| child.parent == image.id);
                prop_assert!(!is_gone(parent) || step, "the parent of what stays goes");
            }
        }
        let place = |id: &str| gone.iter().position(|gone| gone.to_string() == id);
        for image in &images {
            if let (Some(own), Some(parents)) = (place(&image.id), place(&image.parent)) {
                prop_assert!(own < parents, "a parent goes before its child");
            }
        }
    }
}
