"""What an owner of the product needs to take it over: locked dependencies, their licences, a bill of materials."""
