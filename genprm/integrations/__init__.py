"""Process rewards for RL and evaluation frameworks: thin layers over `genprm.client`.

Each module needs its framework and the standard library, nothing else of genprm's dependencies: in a trainer's
environment, `pip install --no-deps genprm`. The service's URL and key come from `GENPRM_URL` and `GENPRM_API_KEY`.
"""
