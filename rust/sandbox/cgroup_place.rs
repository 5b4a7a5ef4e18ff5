//! Where this process may make a memory cgroup: read from what the kernel says of its mounts and its own cgroup.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The two interfaces that kernels have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Folders below which a cgroup can be tried to be made, the one to be preferred first.
#[derive(Debug, PartialEq)]
pub(super) struct Places {
    pub version: Version,
    /// For memory; in version 2 for the number of processes as well.
    pub memory: Vec<PathBuf>,
    /// Version 1 has a hierarchy of its own for the number of processes.
    pub pids: Option<PathBuf>,
}

impl Places {
    /// Those of this process. `Error::Judge` says why there are none.
    pub(super) fn of_this_process() -> Result<Self> {
        let read = |path| std::fs::read_to_string(path).map_err(|error| Error::Judge(format!("{path}: {error}")));
        let text = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        Self::find(&text.0, &text.1, &|folder| std::fs::read_to_string(folder.join("cgroup.subtree_control")).ok())
    }

    /// `children` gives the controllers that the groups below a folder have.
    fn find(mounts: &str, own: &str, children: &dyn Fn(&Path) -> Option<String>) -> Result<Self> {
        if let Some(group) = own_group(own, Some("memory")) {
            let memory = folder_of(mounts, "cgroup", Some("memory"), group)?;
            let pids = own_group(own, Some("pids")).map(|group| folder_of(mounts, "cgroup", Some("pids"), group));
            return Ok(Places {
                version: Version::V1,
                memory: vec![memory.0],
                pids: pids.and_then(|p| p.ok()).map(|p| p.0),
            });
        }
        let group = own_group(own, None).ok_or_else(|| Error::Judge("this kernel has no memory cgroups".into()))?;
        let (folder, top) = folder_of(mounts, "cgroup2", None, group)?;
        // Groups that hold processes, as the own one does, give controllers to none below, so it is the next one above.
        let above = folder.ancestors().take_while(|folder| folder.starts_with(&top));
        let gives_memory = |folder: &&Path| children(folder).is_some_and(|text| has_word(&text, ' ', "memory"));
        let memory: Vec<PathBuf> = above.filter(gives_memory).map(Path::to_path_buf).collect();
        if memory.is_empty() {
            let place = folder.display();
            return Err(Error::Judge(format!(
                "no cgroup from {place} upwards gives a memory controller to those below it"
            )));
        }
        Ok(Places { version: Version::V2, memory, pids: None })
    }
}

fn has_word(text: &str, separator: char, word: &str) -> bool {
    text.trim_end().split(separator).any(|part| part == word)
}

/// The path of the own group, by /proc/self/cgroup; without a controller, that of version 2.
fn own_group<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = controller.map_or(controllers.is_empty(), |name| has_word(controllers, ',', name));
        is_it.then_some(path)
    })
}

/// Where a group is to be found among the mounts (/proc/self/mountinfo), and the top of that mount.
fn folder_of(mounts: &str, kind: &str, controller: Option<&str>, group: &str) -> Result<(PathBuf, PathBuf)> {
    for line in mounts.lines() {
        let Some((mount, system)) = line.split_once(" - ") else { continue };
        let (mount, system): (Vec<_>, Vec<_>) = (mount.split(' ').collect(), system.split(' ').collect());
        let ([_, _, _, root, top, ..], [found, _, options, ..]) = (&mount[..], &system[..]) else { continue };
        if *found != kind || !controller.is_none_or(|name| has_word(options, ',', name)) {
            continue;
        }
        // A container may see its own group, or one above it, as the root of the mount.
        if let Ok(rest) = Path::new(group).strip_prefix(root) {
            return Ok((Path::new(top).join(rest), PathBuf::from(top)));
        }
    }
    Err(Error::Judge(format!("the cgroup {group} of this process is not mounted")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      39 31 0:36 /box /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn none(_: &Path) -> Option<String> {
        None
    }

    #[test]
    fn version_1_has_a_place_in_the_own_group_of_each_hierarchy() {
        let own = "8:pids:/box/a\n4:memory,hugetlb:/user/x\n0::/\n";
        let places = Places::find(V1, own, &none).unwrap();
        assert_eq!(places.version, Version::V1);
        assert_eq!(places.memory, [Path::new("/sys/fs/cgroup/memory/user/x")]);
        assert_eq!(places.pids.as_deref(), Some(Path::new("/sys/fs/cgroup/pids/a")));
    }

    #[test]
    fn version_2_has_places_above_the_own_group_where_memory_is_given_on() {
        let given = |folder: &Path| match folder.to_str() {
            Some("/sys/fs/cgroup" | "/sys/fs/cgroup/user.slice") => Some("cpu memory pids\n".into()),
            _ => Some("pids\n".into()),
        };
        let places = Places::find(V2, "0::/user.slice/app.slice/run.scope\n", &given).unwrap();
        assert_eq!(places.version, Version::V2);
        assert_eq!(places.memory, [Path::new("/sys/fs/cgroup/user.slice"), Path::new("/sys/fs/cgroup")]);
        let refused = Places::find(V2, "0::/box\n", &none).unwrap_err().to_string();
        assert!(refused.contains("/sys/fs/cgroup/box upwards"), "{refused}");
    }

    #[test]
    fn a_group_that_is_not_mounted_or_does_not_exist_is_said() {
        for (mounts, own, reason) in [
            ("", "4:memory:/a\n", "/a of this process is not mounted"),
            (V1, "8:pids:/other\n4:cpu:/\n", "no memory cgroups"),
            (V2, "", "no memory cgroups"),
            ("35 24 0:30 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/b\n", "/b of this process is not mounted"),
        ] {
            let error = Places::find(mounts, own, &none).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
