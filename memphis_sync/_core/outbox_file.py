"""The outbox of a Link in a file, through the binding that is in use; outbox_file.pyi says what each name does."""

from __future__ import annotations

from memphis_sync import _core

OutboxFile = _core._binding.OutboxFile
outbox_file_size = _core._binding.outbox_file_size
use_file = _core._binding.use_file
sync_file = _core._binding.sync_file
adopt = _core._binding.adopt
recovered = _core._binding.recovered
