"""The MQTT contract as files for other people and programs: JSON Schemas and the HTML page of the AsyncAPI document."""
