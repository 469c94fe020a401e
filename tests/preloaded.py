"""What the server of `tests.runs` imports before it forks; nothing here may start a thread."""

import threading

import torch
import torch.utils.tensorboard
from tqdm import tqdm

import utils.world  # noqa: F401

torch.set_num_threads(1)
tqdm.set_lock(threading.RLock())  # its own is a semaphore of the whole machine, which a killed process leaves behind
