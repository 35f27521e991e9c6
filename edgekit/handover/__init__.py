"""What a bundle hands over to an app, so that no app needs Python, Jinja or a model's own processor.

    pieces     a chat template as literal pieces, and how a conversation is written with them
    prompt     finding the pieces of a template, and the proof that they write what Jinja writes
    drawn      images that are always the same, for the golden vectors
    golden     images, strings and conversations with what the bundle makes of them
    model      the files that an app needs, with addresses and hashes

docs/apps.md describes the files for those who read them in another language.
"""

FOLDER, GOLDEN = "app", "golden"
PROMPT, MODEL, VECTORS = f"{FOLDER}/prompt.json", f"{FOLDER}/model.json", f"{GOLDEN}/golden.json"
FORMAT = 1
"""Of the files in these two folders."""
