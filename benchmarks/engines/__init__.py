"""Engines for scripts that time the same work on several: ``Class(args).run(requests, out_len)``.

A request is ``{"ids": [...], "images": [...]}`` with one placeholder token an image; ``run``
answers greedily, takes no notice of end-of-text, and returns how many tokens each request got.
``args`` has ``model``, ``enforce_eager``, ``max_model_len``, ``max_num_seqs``, ``gpu_mem``,
``seed``, ``kw`` (JSON: more options) and ``no_detokenize``.
"""
