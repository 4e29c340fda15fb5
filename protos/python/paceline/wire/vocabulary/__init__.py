"""Vocabularies as tokenizer.json files describe them, for whoever joins or trains them. `tokenizer_json` needs the
package tokenizers; nothing else of wire does."""
