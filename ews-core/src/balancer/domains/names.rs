//! The names of all domains in order, for whoever lists them: pages of names end to end.
//!
//! A name takes its length and one byte here, less than a pointer to it would.

/// The most names of a page.
const PAGE: usize = 256;

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Never an empty one.
    pages: Vec<Page>,
}

#[derive(Debug, Clone, Default)]
struct Page {
    /// For each name its length in one byte, and the name.
    text: Vec<u8>,
    count: usize,
    /// Where the last name begins.
    last: usize,
}

/// The name that begins here, and where the next one begins.
fn name_at(text: &[u8], at: usize) -> Option<(&str, usize)> {
    let end = at + 1 + usize::from(*text.get(at)?);
    Some((std::str::from_utf8(text.get(at + 1..end)?).unwrap_or_default(), end))
}

impl Page {
    fn first(&self) -> &str {
        name_at(&self.text, 0).map_or("", |(name, _)| name)
    }

    fn last(&self) -> &str {
        name_at(&self.text, self.last).map_or("", |(name, _)| name)
    }

    /// Where the first name that is not before this one begins, and whether it is this one.
    fn find(&self, name: &str) -> (usize, bool) {
        let mut at = 0;
        while let Some((found, next)) = name_at(&self.text, at) {
            if found >= name {
                return (at, found == name);
            }
            at = next;
        }
        (at, false)
    }

    /// Puts a name in; says whether it was not there.
    fn insert(&mut self, name: &str) -> bool {
        let (at, is_there) =
            if self.count > 0 && name > self.last() { (self.text.len(), false) } else { self.find(name) };
        if is_there {
            return false;
        }
        let more = 1 + name.len();
        if self.text.capacity() - self.text.len() < more {
            self.text.reserve_exact(more.max(self.text.len() / 16));
        }
        self.last = if at == self.text.len() { at } else { self.last + more };
        // A domain's name has at most 253 bytes.
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.text.splice(at..at, std::iter::once(length).chain(name.bytes()));
        self.count += 1;
        true
    }

    /// Takes the later half away.
    fn cut(&mut self) -> Self {
        let (mut at, mut last) = (0, 0);
        for _ in 0..self.count / 2 {
            (last, at) = (at, name_at(&self.text, at).map_or(at, |(_, next)| next));
        }
        let later =
            Self { text: self.text.split_off(at), count: self.count - self.count / 2, last: self.last - at };
        (self.count, self.last) = (self.count / 2, last);
        self.text.shrink_to_fit();
        later
    }
}

impl Names {
    /// The page that a name belongs to.
    fn page(&self, name: &str) -> usize {
        self.pages.partition_point(|page| page.first() <= name).saturating_sub(1)
    }

    pub(super) fn insert(&mut self, name: &str) {
        let place = self.page(name);
        let is_last = place + 1 >= self.pages.len();
        let Some(page) = self.pages.get_mut(place) else {
            self.pages.push(Page::default());
            return self.insert(name);
        };
        if is_last && page.count >= PAGE && name > page.last() {
            // Names that come in order fill page after page.
            let mut next = Page::default();
            next.insert(name);
            self.pages.push(next);
        } else if page.insert(name) && page.count > PAGE {
            let later = page.cut();
            self.pages.insert(place + 1, later);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let place = self.page(name);
        let Some(page) = self.pages.get_mut(place) else { return };
        let (at, is_there) = page.find(name);
        if !is_there {
            return;
        }
        page.text.drain(at..at + 1 + name.len());
        page.count -= 1;
        if page.count == 0 {
            self.pages.remove(place);
            return;
        }
        // The one before the end, which is found from the beginning.
        let mut next = 0;
        while let Some((_, after)) = name_at(&page.text, next) {
            (page.last, next) = (next, after);
        }
    }

    /// The names after this one, in order; without one, all.
    pub(super) fn after(&self, name: Option<&str>) -> impl Iterator<Item = &str> {
        let place = name.map_or(0, |name| self.page(name));
        let pages = self.pages.get(place..).unwrap_or_default().iter();
        pages
            .flat_map(|page| {
                let mut at = 0;
                std::iter::from_fn(move || {
                    let (name, next) = name_at(&page.text, at)?;
                    at = next;
                    Some(name)
                })
            })
            .skip_while(move |found| name.is_some_and(|name| *found <= name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds_in_its_order(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..900), 0..3_000),
            after in 0_u32..900,
        ) {
            let (mut names, mut model) = (Names::default(), BTreeSet::new());
            for (puts, number) in steps {
                let name = format!("{}{number}", "x".repeat(number as usize % 7));
                if puts {
                    names.insert(&name);
                    model.insert(name);
                } else {
                    names.remove(&name);
                    model.remove(&name);
                }
            }
            prop_assert!(names.after(None).eq(model.iter().map(String::as_str)));
            let after = after.to_string();
            let later = model.range::<str, _>((std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded));
            prop_assert!(names.after(Some(&after)).eq(later.map(String::as_str)));
            for page in &names.pages {
                prop_assert!(page.count > 0 && page.count <= PAGE);
                let held = names_of(page);
                prop_assert_eq!(Some(&page.last()), held.last());
            }
        }

        #[test]
        fn names_that_come_in_order_fill_their_pages(count in 1_usize..2_000) {
            let mut names = Names::default();
            (0..count).for_each(|number| names.insert(&format!("{number:06}")));
            prop_assert_eq!(names.pages.len(), count.div_ceil(PAGE));
        }
    }

    fn names_of(page: &Page) -> Vec<&str> {
        let (mut at, mut all) = (0, Vec::new());
        while let Some((name, next)) = name_at(&page.text, at) {
            all.push(name);
            at = next;
        }
        all
    }
}
