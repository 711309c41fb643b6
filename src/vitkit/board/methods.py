"""The methods that papers of the board share, each explained in a paragraph of our own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One idea: what it does and why, in our own words."""

    name: str
    title: str
    group: str  # Architecture, Augmentation, Regularisation, Optimisation, Self-supervision, Evaluation, Explanation
    summary: str
    papers: tuple[str, ...]  # names of `PAPERS` that use it; the first heads
    source: str  # where it comes from: an address
    aliases: tuple[str, ...] = ()


def _arxiv(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


VIT = _arxiv("2010.11929")
METHODS = (
    Method("patch-embedding", "Patch embedding", "Architecture",
           "The image is cut into squares that do not overlap, 16 by 16 pixels say, and one linear map makes a vector of each. "
           "It is a convolution whose stride is its size. Smaller patches mean more tokens, and a cost that grows with the "
           "square of their number; they are nearly always more accurate.", ("vit",), VIT),
    Method("cls-token", "Class token", "Architecture",
           "A learnt vector is put before the patches and takes part in every layer. Having no patch of its own it gathers "
           "what the others hold, and the head reads its last state alone.", ("vit", "deit"), VIT, ("cls token",)),
    Method("position-embedding", "Position embedding", "Architecture",
           "Attention does not know where a token stands, so a vector for each place is added to its token. ViT learns a table "
           "of them; fixed sines and cosines do as well. Which kind it is matters little, having none costs several points. At "
           "another image size the table is resampled as if it were a small picture.", ("vit", "better-plain-vit"), VIT),
    Method("multi-head-attention", "Multi-head attention", "Architecture",
           "Each token asks a question, a query, and every token offers a key and a value; the answer is the mean of the values, "
           "weighted by how well keys fit the query. Several heads do this side by side on parts of the vector, so that one "
           "layer can look for several things at once.", ("transformer", "vit"), _arxiv("1706.03762"), ("self-attention",)),
    Method("pre-norm", "Pre-normalised block", "Architecture",
           "Layer normalisation stands before attention and before the MLP, and each result is added to what came in. The path "
           "of additions runs from first layer to last untouched, which lets deep encoders train without special care.",
           ("vit",), VIT),
    Method("gelu", "GELU", "Architecture",
           "A smooth step between zero and the identity: the input times the probability that a normal variable is below it. "
           "The official JAX models use an approximation by tanh, most PyTorch ones the exact form; logits differ in the "
           "fourth digit.", ("vit",), _arxiv("1606.08415")),
    Method("hybrid", "Hybrid stem", "Architecture",
           "Patches are taken from the feature map of a small ResNet in place of the image. It helps small models for the same "
           "compute; for large ones the advantage is gone.", ("vit", "augreg"), VIT),
    Method("mean-pooling", "Mean pooling", "Architecture",
           "The head reads the mean of the last patch tokens and there is no class token. It is as accurate, if the learning rate "
           "is chosen for it.", ("better-plain-vit", "vit"), _arxiv("2205.01580"), ("global average pooling", "gap")),
    Method("map-pooling", "Attention pooling (MAP)", "Architecture",
           "One learnt query attends to all last tokens, and an MLP follows: the pooling is itself a layer of attention. Big "
           "models and image-text encoders use it in place of a class token.", ("scaling-vit", "siglip"), _arxiv("2106.04560"),
           ("map", "multihead attention pooling")),
    Method("registers", "Registers", "Architecture",
           "A few learnt tokens without a patch, thrown away at the end. They take up global notes that large models would "
           "else write into patches of the background.", ("registers", "dinov2"), _arxiv("2309.16588")),
    Method("layer-scale", "Layer scale", "Architecture",
           "Every channel of a branch is multiplied by a learnt number that starts near zero, so that a deep network begins "
           "close to the identity.", ("deit3", "dinov2"), _arxiv("2103.17239")),
    Method("distillation-token", "Distillation token", "Architecture",
           "A second token beside the class token whose head learns a teacher's answer in place of the label. At test time the "
           "two heads are averaged.", ("deit",), _arxiv("2012.12877")),
    Method("windowed-attention", "Windowed attention", "Architecture",
           "Tokens attend within a window of the image only; windows shift between layers so that news travels. The cost grows "
           "with the number of tokens, not its square.", ("swin",), _arxiv("2103.14030")),
    Method("token-mixing", "Token mixing", "Architecture",
           "An MLP over positions, the same for every channel, in place of attention. The number of tokens is fixed by it.",
           ("mixer",), _arxiv("2105.01601")),
    Method("inception-crop", "Inception crop", "Augmentation",
           "A rectangle of random area and shape is cut out and resized to the training size. The model sees objects at many "
           "scales and never twice the same picture.", ("vit", "augreg", "better-plain-vit"), _arxiv("1409.4842"),
           ("random resized crop",)),
    Method("randaugment", "RandAugment", "Augmentation",
           "A few operations are drawn at random from a fixed list, turning, shearing, colours, and applied with one common "
           "strength. Two numbers, how many and how strong, replace a search for a policy.",
           ("augreg", "deit", "better-plain-vit"), _arxiv("1909.13719")),
    Method("mixup", "Mixup", "Augmentation",
           "Two images are blended and so are their labels. The model is made to answer in straight lines between examples, and "
           "gets less sure of itself.", ("augreg", "deit", "better-plain-vit"), _arxiv("1710.09412")),
    Method("cutmix", "CutMix", "Augmentation",
           "A rectangle of one image is pasted into another, and the label is shared in proportion to the area.",
           ("deit", "deit3"), _arxiv("1905.04899")),
    Method("stochastic-depth", "Stochastic depth", "Regularisation",
           "Whole branches are left out at random in training, later layers more often. The network must not lean on any one "
           "layer, and trains a little faster.", ("augreg", "deit", "deit3"), _arxiv("1603.09382"), ("drop path",)),
    Method("decoupled-weight-decay", "Decoupled weight decay", "Regularisation",
           "Weights shrink by a fixed fraction per step, apart from the gradient's own scaling by Adam. ViT's pre-training uses "
           "an unusually strong one.", ("vit", "augreg"), _arxiv("1711.05101"), ("adamw",)),
    Method("distillation", "Distillation", "Regularisation",
           "A student learns to give a teacher's answers. Beside the right class these tell how alike the others are, and a "
           "small model learns more from them than from labels.", ("deit", "noisy-student"), _arxiv("1503.02531"),
           ("knowledge distillation",)),
    Method("warmup-cosine", "Warm-up and cosine decay", "Optimisation",
           "The learning rate rises in a straight line over the first steps, while Adam's averages are still poor, and then "
           "falls along half a cosine to zero.", ("augreg", "better-plain-vit", "vit"), VIT),
    Method("gradient-clipping", "Gradient clipping", "Optimisation",
           "If the norm of all gradients together is above one, they are scaled down to it. Rare, huge steps are what breaks "
           "the training of Transformers.", ("vit", "augreg"), VIT),
    Method("sam", "Sharpness-aware minimisation", "Optimisation",
           "Each step first climbs to the worst point near by and takes its gradient there. Minima found so are flat, and "
           "generalise better, for twice the cost.", ("sam-vit",), _arxiv("2010.01412"), ("sharpness-aware minimization",)),
    Method("high-resolution-finetuning", "Fine-tuning at higher resolution", "Optimisation",
           "Pre-trained at 224 pixels and fine-tuned at 384 or more: patches keep their size, so there are more tokens, and "
           "position embeddings are resampled to the finer grid.", ("vit", "bit"), VIT),
    Method("masked-patch-prediction", "Masked patch prediction", "Self-supervision",
           "Half of the patches are hidden and the model tells their mean colour. ViT tried it in its appendix: better than "
           "training from nothing, worse than labels. Later papers found what to predict instead.", ("vit", "beit", "mae"), VIT),
    Method("masked-autoencoding", "Masked autoencoding", "Self-supervision",
           "Three quarters of the patches are left out of the encoder altogether; a small decoder paints their pixels. The "
           "encoder sees a quarter of the tokens, so pre-training is cheap.", ("mae",), _arxiv("2111.06377")),
    Method("self-distillation", "Self-distillation", "Self-supervision",
           "A student must answer for a part of an image what a teacher answers for more of it; the teacher is the slow average "
           "of the student. Centring and sharpening of the teacher's answers keep both from saying the same of everything.",
           ("dino", "dinov2"), _arxiv("2104.14294")),
    Method("contrastive-image-text", "Contrast of image and text", "Self-supervision",
           "Of a batch of pictures and captions the model must tell which belong together. What it learns lets classes be "
           "described in words.", ("clip", "lit", "siglip"), _arxiv("2103.00020")),
    Method("linear-probe", "Linear probe", "Evaluation",
           "A linear classifier on frozen features: it measures how plainly the features tell classes apart, and nothing else "
           "changes.", ("dino", "mae", "clip"), _arxiv("2103.00020")),
    Method("few-shot-regression", "Few-shot linear regression", "Evaluation",
           "A regularised least-squares map from frozen features of a few images per class to targets of plus and minus one. "
           "It is solved in closed form, so that pre-training can be watched for almost nothing.", ("vit", "bit"), VIT),
    Method("knn", "k-nearest neighbours", "Evaluation",
           "Every test image takes the class that its nearest training images have in feature space. There is nothing to tune "
           "but their number.", ("dino", "dinov2"), _arxiv("2104.14294"), ("k-nn",)),
    Method("attention-rollout", "Attention rollout", "Explanation",
           "The attention matrices of all layers, averaged over heads, are multiplied with the identity mixed in for the "
           "residual path. The row of the class token then says which patches reached it.", ("vit",), _arxiv("2005.00928")),
    Method("attention-distance", "Attention distance", "Explanation",
           "How far away, in pixels, a head looks on average: distances between patches weighted by attention. In the first "
           "layers some heads look near and some across the whole image; in the last all look far.", ("vit",), VIT),
)  # fmt: skip
