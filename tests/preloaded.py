"""What the server of `tests.runs` imports before it forks; nothing here may start a thread.

That is all that a run and the tests' own part of it import: on a slow machine it takes a process of its own ten
seconds and more.
"""
# ruff: noqa: F401

import threading

import matplotlib.backends.backend_agg
import sklearn.model_selection
import torch
import torch._dynamo  # which every optimizer imports
import torch.utils.tensorboard
import torchvision.utils
from tqdm import tqdm

import data_loader.build
import models.build
import tests.faults
import tests.runs
import trainer.judgement
import trainer.preflight
import trainer.resume
import trainer.trainer
import utils.world

torch.set_num_threads(1)
tqdm.set_lock(threading.RLock())  # its own is a semaphore of the whole machine, which a killed process leaves behind
