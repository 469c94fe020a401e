"""The datasets by name. A dataset is one function from `data_loader.args.data_dir` and an `Access` to an
ImageDataset."""

from collections.abc import Callable

from data_loader.cifar10 import load_cifar10, load_cifar100
from data_loader.dataset import ImageDataset
from data_loader.digits import load_digits
from data_loader.image_folder import load_image_folder
from data_loader.mnist import load_fashion_mnist, load_mnist
from data_loader.stl10 import load_stl10
from data_loader.svhn import load_svhn
from data_loader.tiny_coco import load_tiny_coco, load_tiny_coco_as_published
from data_loader.tiny_exdark import load_tiny_exdark
from data_loader.tiny_imagenet import load_tiny_imagenet

Loader = Callable[..., ImageDataset]

DATASETS: dict[str, Loader] = {
    "CIFAR10": load_cifar10,
    "CIFAR100": load_cifar100,
    "SVHN": load_svhn,
    "MNIST": load_mnist,
    "FashionMNIST": load_fashion_mnist,
    "STL10": load_stl10,
    "TinyCOCO": load_tiny_coco,
    "TinyExDark": load_tiny_exdark,
    "ImageFolder": load_image_folder,
    "TinyImageNet": load_tiny_imagenet,
    "Digits": load_digits,
}

#: The datasets that the published experiments misread (data_loader.args.float_bytes_as_pixels).
AS_PUBLISHED: dict[str, Loader] = {"TinyCOCO": load_tiny_coco_as_published}
