"""The wire contract as files for people and programs outside: JSON Schemas and the page rendered from AsyncAPI."""
