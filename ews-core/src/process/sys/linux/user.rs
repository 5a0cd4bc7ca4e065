//! Users by name: `/etc/passwd` and `/etc/group`, as they are in containers and on most servers.
//!
//! Directories such as LDAP are not asked: name such a user by number.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::process::archive::Owner;
use crate::process::protocol::User;

/// Whether this process may run programs as others.
pub(in crate::process) fn may_change() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who owns the files of a program that runs as this user.
pub(in crate::process) fn owner(user: Option<&User>) -> Owner {
    user.map_or_else(Owner::default, |user| Owner::of(user.uid, user.gid))
}

/// Gives a file or directory to a user; before the program that could put a link in its place has ever run.
pub(in crate::process) fn give(path: &Path, user: Option<&User>) -> io::Result<()> {
    user.map_or(Ok(()), |user| std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)))
}

/// Reads `user`, `uid`, `user:group` or `uid:gid`.
pub(in crate::process) fn resolve(text: &str) -> Result<User> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    look_up(text, &passwd, &group)
}

fn look_up(text: &str, passwd: &str, group: &str) -> Result<User> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let unknown = |what: &'static str, name: &str| {
        Error::invalid(format!(
            "there is no {what} `{name}` on this machine; accepted: a name of its files of users and groups, or a number"
        ))
        .with_context("field", "user")
    };
    let entry = passwd
        .lines()
        .map(fields)
        .find(|fields| fields.first() == Some(&user) || (is_number(user) && fields.get(2) == Some(&user)));
    let known = |at: usize| entry.as_ref().and_then(|fields| fields.get(at)?.parse::<u32>().ok());
    let uid = known(2).or_else(|| number(user)).ok_or_else(|| unknown("user", user))?;
    let gid = match wanted_group {
        // A number that no file knows has the group of the same number, as container engines have 0; that one would be root's.
        None => known(3).unwrap_or(uid),
        Some(name) => group
            .lines()
            .map(fields)
            .find(|fields| fields.first() == Some(&name))
            .and_then(|fields| fields.get(2)?.parse().ok())
            .or_else(|| number(name))
            .ok_or_else(|| unknown("group", name))?,
    };
    let name = entry.as_ref().and_then(|fields| fields.first().copied());
    let member = |fields: &Vec<&str>| {
        name.is_some_and(|name| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name)))
    };
    let mut groups: Vec<u32> = match wanted_group {
        // Who names a group means that one and no other.
        Some(_) => Vec::new(),
        None => {
            let all = group.lines().map(fields).filter(member);
            all.filter_map(|fields| fields.get(2)?.parse().ok()).collect()
        }
    };
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn is_number(text: &str) -> bool {
    number(text).is_some()
}

/// -1 means "leave it as it is" to the system, so it is no user.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok().filter(|number| *number != u32::MAX) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/bin/false\nbad line\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nssl:x:110:www,other\nother:x:7:\n";

    #[test]
    fn names_and_numbers_are_found_and_others_said() {
        let get = |text: &str| look_up(text, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups));
        assert_eq!(get("www").unwrap(), (33, 33, vec![33, 110]));
        assert_eq!(get("33").unwrap(), (33, 33, vec![33, 110]));
        assert_eq!(get("www:other").unwrap(), (33, 7, vec![7]));
        assert_eq!(get("1234").unwrap(), (1234, 1234, vec![1234]));
        assert_eq!(get("1234:0").unwrap(), (1234, 0, vec![0]));
        for (text, said) in [
            ("nobody-here", "no user `nobody-here`"),
            ("www:nogroup-here", "no group `nogroup-here`"),
            ("4294967295", "no user"),
            ("-1", "no user"),
            ("www:", "no group"),
        ] {
            let error = get(text).unwrap_err();
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }
}
