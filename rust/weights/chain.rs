//! Patches that lead from versions that are gone to kept ones: who is several versions behind takes these instead of the whole.

use std::collections::VecDeque;
use std::sync::Arc;

use super::version::Version;

/// What turns one version into the next: the patches of its shards that are not empty, by shard.
pub(super) struct Step {
    base: u64,
    version: u64,
    pub(super) patches: Vec<(usize, Arc<Vec<u8>>)>,
}

/// Steps on the way from one version to another, in order.
pub(super) type Steps = Vec<Arc<Step>>;

impl Step {
    /// Bytes of all its patches.
    pub(super) fn bytes(&self) -> usize {
        self.patches.iter().map(|(_, patch)| patch.len()).sum()
    }
}

/// The last steps, without gaps, of no more bytes together than a whole version.
#[derive(Default)]
pub(super) struct Chain {
    steps: VecDeque<Arc<Step>>,
}

impl Chain {
    /// Keeps what led from `base`, which goes, to `version`, as far as it was made; without it the chain starts anew.
    pub(super) fn append(&mut self, base: &Version, version: &Version) {
        let Some(patches) = version.made_patches(base) else { return self.steps.clear() };
        self.steps.push_back(Arc::new(Step { base: base.number(), version: version.number(), patches }));
        let mut bytes = self.steps.iter().map(|step| step.bytes()).sum::<usize>();
        while bytes > version.num_bytes()
            && let Some(oldest) = self.steps.pop_front()
        {
            bytes -= oldest.bytes();
        }
    }

    /// The steps from `base` to the first version that `is_kept`, and that version's number: `base` itself if it is.
    pub(super) fn from(&self, base: u64, is_kept: impl Fn(u64) -> bool) -> (Steps, u64) {
        let (mut steps, mut end) = (Steps::new(), base);
        for step in &self.steps {
            if step.base == end && !is_kept(end) {
                steps.push(Arc::clone(step));
                end = step.version;
            }
        }
        (steps, end)
    }
}
