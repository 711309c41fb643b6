"""The papers of the board: facts, our own summary, and what each builds on.

Sources: the papers' own addresses. Dates with a day are those of the models' pages in Hugging Face's documentation or the
issue tracker; the others are the month that an arXiv id begins with.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """One paper."""

    name: str
    title: str
    short: str  # as people call it: ViT
    authors: str  # short form
    date: str  # of the first version: YYYY-MM-DD, or YYYY-MM where the day is not verified
    summary: str  # our own words
    arxiv: str
    venue: str = ""
    code: tuple[str, ...] = ()  # addresses, the official one first
    tasks: tuple[str, ...] = ()  # names of `TASKS`: the tags
    builds_on: tuple[tuple[str, str], ...] = ()  # (name of an earlier paper, what it takes from it): edges of the tree
    aliases: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}"


VIT_JAX = "https://github.com/google-research/vision_transformer"
BIG_VISION = "https://github.com/google-research/big_vision"
CLASSIFY = ("image-classification",)
FROZEN = ("image-classification", "linear-probe", "knn")

PAPERS = (
    Paper(
        "transformer", "Attention Is All You Need", "Transformer", "Vaswani et al.", "2017-06",
        "Replaces recurrence in translation by attention alone: every position looks at every other one through several heads "
        "at once. The encoder described here is, with the normalisation moved, the network that ViT uses for images.",
        "1706.03762", "NeurIPS 2017",
    ),
    Paper(
        "vtab", "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", "VTAB",
        "Zhai et al.", "2019-10",
        "Asks what a good visual representation is by adapting it to nineteen tasks with a thousand images each, from flowers "
        "to satellite pictures to counting objects. The mean of the nineteen accuracies is the score that later papers print "
        "as VTAB-1k.",
        "1910.04867", "", ("https://github.com/google-research/task_adaptation",), ("vtab-1k",),
    ),
    Paper(
        "noisy-student", "Self-training with Noisy Student improves ImageNet classification", "Noisy Student", "Xie et al.",
        "2019-11",
        "A teacher labels 300 million unlabelled images, a larger and noisier student learns from them, and the student "
        "becomes the next teacher. Its EfficientNet-L2 was the best published ImageNet model when ViT appeared, and stands "
        "beside it in the paper's Table 2.",
        "1911.04252", "CVPR 2020", (), CLASSIFY,
    ),
    Paper(
        "bit", "Big Transfer (BiT): General Visual Representation Learning", "BiT", "Kolesnikov et al.", "2019-12-24",
        "Pre-trains wide ResNets with group normalisation on up to 300 million images and fine-tunes them with one simple rule "
        "for all tasks. ViT takes over its data, its few-shot probe and its habits of fine-tuning, and is compared with it at "
        "equal compute.",
        "1912.11370", "ECCV 2020", ("https://github.com/google-research/big_transfer",), ("image-classification", "vtab-1k"),
        (("vtab", "is scored on its nineteen tasks"),), ("big transfer",),
    ),
    Paper(
        "real", "Are we done with ImageNet?", "ReaL", "Beyer et al.", "2020-06",
        "Labels ImageNet's validation images again, with every class that people see in them, and drops images without a clear "
        "answer. Accuracy under these labels tells real progress from learning the habits of the old ones.",
        "2006.07159", "", ("https://github.com/google-research/reassessed-imagenet",), CLASSIFY,
    ),
    Paper(
        "vit", "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "ViT", "Dosovitskiy et al.",
        "2020-10-22",
        "Cuts an image into patches, makes each one a token, and gives the sequence to an ordinary Transformer encoder with a "
        "class token. With ImageNet alone it falls behind ResNets of its size; pre-trained on 14 to 300 million images it "
        "passes them, and costs several times less compute to train. Also here: hybrids with a ResNet stem, what position "
        "embeddings and attention heads learn, and a first try at learning without labels by predicting masked patches.",
        "2010.11929", "ICLR 2021", (VIT_JAX, BIG_VISION),
        ("image-classification", "vtab-1k", "few-shot", "semantic-segmentation"),
        (("transformer", "its encoder, on patches in place of words"), ("bit", "its data, transfer recipe and baselines"),
         ("vtab", "is scored on its nineteen tasks"), ("real", "is scored with its labels")),
        ("vision transformer", "an image is worth 16x16 words"),
    ),
    Paper(
        "deit", "Training data-efficient image transformers & distillation through attention", "DeiT", "Touvron et al.",
        "2020-12-23",
        "Trains ViT on ImageNet alone, in days on one machine, by strong augmentation and regularisation. A second token learns "
        "from a convolutional teacher's answers, which adds more accuracy than the same distillation through the class token.",
        "2012.12877", "ICML 2021", ("https://github.com/facebookresearch/deit",), CLASSIFY,
        (("vit", "the same network, trained without large private data"),),
    ),
    Paper(
        "clip", "Learning Transferable Visual Models From Natural Language Supervision", "CLIP", "Radford et al.",
        "2021-02-26",
        "Learns an image and a text encoder together from 400 million pictures with captions, by telling which belong together. "
        "Classes can then be given as sentences, so that one model answers for data sets it was never trained on.",
        "2103.00020", "ICML 2021", ("https://github.com/openai/CLIP",), ("zero-shot", "linear-probe", "image-text-retrieval"),
        (("vit", "its best image encoders"),),
    ),
    Paper(
        "swin", "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "Swin", "Liu et al.", "2021-03-25",
        "Limits attention to windows that shift from layer to layer and merges patches as depth grows, so that cost is linear in "
        "the number of pixels. The pyramid of resolutions serves detection and segmentation as a convolutional one does.",
        "2103.14030", "ICCV 2021", ("https://github.com/microsoft/Swin-Transformer",),
        ("image-classification", "semantic-segmentation"), (("vit", "patches and attention, in windows"),),
    ),
    Paper(
        "dino", "Emerging Properties in Self-Supervised Vision Transformers", "DINO", "Caron et al.", "2021-04",
        "A student network predicts, from small crops, what a slow average of itself says of large ones; no labels are used. "
        "The features of ViT that come out work in k-NN as they are, and the attention of its last layer outlines objects.",
        "2104.14294", "ICCV 2021", ("https://github.com/facebookresearch/dino",), FROZEN,
        (("vit", "as the network that learns without labels"), ("deit", "sizes and training settings")),
    ),
    Paper(
        "mixer", "MLP-Mixer: An all-MLP Architecture for Vision", "MLP-Mixer", "Tolstikhin et al.", "2021-05",
        "Keeps ViT's patches and replaces attention by a small network that mixes across positions, alternating with one across "
        "channels. It comes near ViT when both see enough data, which says how much of the success is due to attention.",
        "2105.01601", "NeurIPS 2021", (VIT_JAX,), CLASSIFY, (("vit", "patches and recipe, without attention"),),
    ),
    Paper(
        "sam-vit", "When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations", "SAM for ViT",
        "Chen et al.", "2021-06",
        "Finds that ViT and Mixer trained on ImageNet alone end in sharp minima, where a small step makes the loss much worse. "
        "Sharpness-aware minimisation, which looks for flat ones, makes them as good as ResNets without strong augmentation.",
        "2106.01548", "ICLR 2022", (VIT_JAX,), CLASSIFY,
        (("vit", "the same network, with another optimiser"), ("mixer", "the same treatment")), ("sam",),
    ),
    Paper(
        "beit", "BEiT: BERT Pre-Training of Image Transformers", "BEiT", "Bao et al.", "2021-06-15",
        "Hides patches of an image and lets ViT predict, for each, the code that a separate tokeniser gives it. It carries the "
        "recipe of language models over to images and betters training from labels alone.",
        "2106.08254", "ICLR 2022", ("https://github.com/microsoft/unilm",), ("image-classification", "semantic-segmentation"),
        (("vit", "its network, and its trial of masked patches"),),
    ),
    Paper(
        "augreg", "How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers", "AugReg",
        "Steiner et al.", "2021-06",
        "Trains some 50,000 ViTs and hybrids to see what augmentation and regularisation are worth. With the right amount, "
        "models trained on public ImageNet-21k match what the first paper needed 300 million private images for; and "
        "fine-tuning a published checkpoint is nearly always better than training anew.",
        "2106.10270", "TMLR 2022", (VIT_JAX, BIG_VISION), ("image-classification", "vtab-1k"),
        (("vit", "the same networks, trained again in many ways"), ("deit", "augmentation in place of data")),
        ("how to train your vit",),
    ),
    Paper(
        "scaling-vit", "Scaling Vision Transformers", "Scaling ViT", "Zhai et al.", "2021-06",
        "Grows model, data and compute together, up to two billion parameters and billions of images, and describes how error "
        "falls. Along the way come an attention-pooled head, separate weight decay for head and body, and cheaper "
        "optimiser states.",
        "2106.04560", "CVPR 2022", (BIG_VISION,), ("image-classification", "few-shot"), (("vit", "the same network, larger"),),
    ),
    Paper(
        "mae", "Masked Autoencoders Are Scalable Vision Learners", "MAE", "He et al.", "2021-11-11",
        "Shows the encoder a quarter of the patches only, and lets a light decoder paint the pixels of the rest. Seeing so "
        "little makes pre-training several times cheaper, and a fine-tuned ViT-H does better than with labels alone.",
        "2111.06377", "CVPR 2022", ("https://github.com/facebookresearch/mae",), ("image-classification", "linear-probe"),
        (("vit", "its network, and its trial of masked patches"), ("beit", "hidden patches, with pixels as what to predict")),
    ),
    Paper(
        "lit", "LiT: Zero-Shot Transfer with Locked-image text Tuning", "LiT", "Zhai et al.", "2021-11",
        "Takes a pre-trained image encoder, locks it, and trains only a text encoder to fit it. That is cheaper than learning "
        "both and gives better zero-shot accuracy, since the image side keeps what its own training gave it.",
        "2111.07991", "CVPR 2022", (VIT_JAX, BIG_VISION), ("zero-shot", "image-text-retrieval"),
        (("vit", "as the locked image encoder"), ("augreg", "its checkpoints to lock"), ("clip", "the contrast of image and text")),
    ),
    Paper(
        "deit3", "DeiT III: Revenge of the ViT", "DeiT III", "Touvron et al.", "2022-04",
        "A simpler supervised recipe for the unchanged ViT: three plain augmentations, binary cross-entropy, layer scale and "
        "stochastic depth. It brings training from labels back to the level of self-supervised pre-training.",
        "2204.07118", "ECCV 2022", ("https://github.com/facebookresearch/deit",), CLASSIFY, (("deit", "its recipe, renewed"),),
        ("deit iii",),
    ),
    Paper(
        "better-plain-vit", "Better plain ViT baselines for ImageNet-1k", "Better plain ViT", "Beyer et al.", "2022-05",
        "A two-page note: with mean pooling, fixed sine-cosine positions, a batch of 1,024 and a little RandAugment and mixup, "
        "ViT-S/16 reaches 76.5 % on ImageNet in 90 epochs and 80 % in 300, without distillation or further tricks.",
        "2205.01580", "", (BIG_VISION,), CLASSIFY,
        (("vit", "the smallest of changes to its recipe"), ("augreg", "how much to augment")), ("simple vit",),
    ),
    Paper(
        "siglip", "Sigmoid Loss for Language Image Pre-Training", "SigLIP", "Zhai et al.", "2023-03-27",
        "Asks of each pair of image and text alone whether they belong together, in place of one softmax over the batch. The "
        "loss needs no view of the whole batch, works with small ones, and trains strong encoders on few chips.",
        "2303.15343", "ICCV 2023", (BIG_VISION,), ("zero-shot", "image-text-retrieval"),
        (("clip", "its pairs, with a simpler loss"), ("lit", "its locked images, in one of two settings"),
         ("scaling-vit", "its attention-pooled head")),
    ),
    Paper(
        "dinov2", "DINOv2: Learning Robust Visual Features without Supervision", "DINOv2", "Oquab et al.", "2023-04-14",
        "Scales learning without labels to 142 million images chosen automatically, joining DINO's loss on whole images with "
        "one on masked patches. The frozen features do well in classification, depth and segmentation with linear heads.",
        "2304.07193", "TMLR 2024", ("https://github.com/facebookresearch/dinov2",), (*FROZEN, "semantic-segmentation"),
        (("dino", "its student and teacher, at scale"), ("beit", "a loss on masked patches")),
    ),
    Paper(
        "registers", "Vision Transformers Need Registers", "Registers", "Darcet et al.", "2023-09-28",
        "Large ViTs store global information in a few tokens of the background, which spoils their attention maps. Some "
        "extra learnt tokens without a patch give them a place for it: the maps become smooth and dense tasks improve.",
        "2309.16588", "ICLR 2024", ("https://github.com/facebookresearch/dinov2",), FROZEN,
        (("dinov2", "the models whose attention it mends"), ("vit", "its sequence, with a few more tokens")),
    ),
)  # fmt: skip
