"""How a model is measured: one file per protocol of `vit evaluate`, each a function ``run(request, console)``."""
